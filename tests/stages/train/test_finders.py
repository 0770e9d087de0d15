"""The finders on real ranks: a ramp that ends where the loss rises, micro-batches until memory or rows end."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from stages.train.ranks import loop_settings, make_shards, run_ranks

from rayml.stages.train import finders, room
from rayml.stages.train.finders import batch_range, reason_to_end
from rayml.stages.train.state import LoopConfig
from rayml.stages.train.strategies.base import Seat
from rayml.stages.train.trial import Trial


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def found(data, work, finder, world_size=2, **changes):
    settings = loop_settings(data, work, finder=finder, **changes)
    work.mkdir()
    assert run_ranks(settings, world_size) == [0] * world_size, Path(settings["errors"]).read_text()[-3000:]
    events = [json.loads(line) for line in Path(settings["events"]).read_text().splitlines()]
    assert list((work / "checkpoints").iterdir()) == []
    return next(event["value"] for event in events if event["kind"] == "fact")


def test_a_ramp_rises_until_the_loss_does(tmp_path, data):
    ramp = {"kind": "lr_range", "from": 1e-5, "to": 1e4, "steps": 60}
    result = found(data, tmp_path / "work", ramp)
    points = result["points"]
    lrs = [point["lr"] for point in points]
    assert lrs[0] == pytest.approx(1e-5)
    assert all(later / earlier == pytest.approx(1e9 ** (1 / 59)) for earlier, later in itertools.pairwise(lrs))
    assert min(point["smooth"] for point in points) < 0.9 * points[0]["smooth"]
    assert result["diverged"]
    assert len(points) < 60
    assert result["ended"].startswith("the loss")


def test_a_ramp_is_the_same_on_one_rank_and_on_two(tmp_path, data):
    ramp = {"kind": "lr_range", "from": 1e-4, "to": 1e-2, "steps": 12}
    model = {"kind": "small_cnn", "width": 8, "dropout": 0.0}
    one, two = (found(data, tmp_path / str(size), ramp, world_size=size, model=model) for size in (1, 2))
    assert [point["loss"] for point in one["points"]] == pytest.approx(
        [point["loss"] for point in two["points"]], rel=1e-4
    )
    assert not two["diverged"]


def test_micro_batches_double_until_the_rows_end(tmp_path, data):
    result = found(data, tmp_path / "work", {"kind": "batch_range", "steps": 2, "memory_share": 0.8})
    rows = [row["rows"] for row in result["table"]]
    assert rows == [1, 2, 4, 8, 16, 32][: len(rows)]
    assert all(row["samples_per_s"] > 0 and row["memory"] >= 0 for row in result["table"])
    assert result["ended"] in (
        "the training split has 35 rows for a micro-batch of each worker",
        "3 doublings brought nothing",
    )
    assert (result["data"], result["batch_size"], result["accumulation"]) == (2, 16, 1)


def trial(data, tmp_path):
    settings = loop_settings(data, tmp_path, strategy={"kind": "local"}, workers=1)
    known = {
        name: settings[name] for name in ("train", "every_steps", "keep", "threads", "data", "checkpoints", "code")
    }
    return Trial(LoopConfig(**known), Seat(0, 1, torch.device("cpu")))


def test_a_full_gpu_ends_the_search_with_what_fitted(tmp_path, data, monkeypatch):
    """What torch raises when a GPU is full stands for one; the table has the sizes before it."""
    mine = trial(data, tmp_path)
    step = mine.training.strategy.step

    def full(batches):
        if len(batches[0].labels) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(batches)

    monkeypatch.setattr(mine.training.strategy, "step", full)
    monkeypatch.setattr(finders, "PATIENCE", 99)
    weights = {name: tensor.clone() for name, tensor in mine.training.model.state_dict().items()}
    result = batch_range(mine, {"steps": 1, "memory_share": 0.8}, lambda kind, **fields: None)
    assert [row["rows"] for row in result["table"]] == [1, 2, 4]
    assert result["ended"] == "8 rows do not fit into the GPU's memory"
    after = mine.training.model.state_dict()
    assert all(torch.equal(weights[name], after[name]) for name in weights), "the steps had no learning rate"


def test_the_memory_of_a_worker_ends_it_before_it_is_taken(tmp_path, data, monkeypatch):
    monkeypatch.setattr(finders, "memory_budget", lambda share, device: 0.0)
    values = iter([0, 2**20])
    monkeypatch.setattr(finders, "resident", lambda device: next(values))
    result = batch_range(trial(data, tmp_path), {"steps": 1, "memory_share": 0.8}, lambda kind, **fields: None)
    assert [row["rows"] for row in result["table"]] == [1]
    assert result["ended"] == "2 rows would take about 2 MiB, and a worker may take 0"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((8, 0.1, 10, 100, 0, 70), ""),
        ((128, 0.1, 10, 100, 0, 70), "the training split has 70 rows"),
        ((8, 0.1, 2**21, 2**20, 0, 70), "8 rows would take about 2 MiB, and a worker may take 1"),
        ((8, 0.1, 10, 100, 3, 70), "3 doublings brought nothing"),
        ((8, 30.0, 10, 100, 0, 70), "a step takes 30 s"),
    ],
)
def test_why_it_ends(arguments, words):
    assert reason_to_end(*arguments).startswith(words)
    assert bool(reason_to_end(*arguments)) == bool(words)


def test_a_container_s_limit_counts(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(room, "GROUP", tmp_path)
    whole = room.memory_budget(1.0, cpu)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert room.memory_budget(1.0, cpu) == pytest.approx(whole, rel=0.5)
    (tmp_path / "memory.max").write_text("5000\n")
    assert room.memory_budget(0.5, cpu) == 2000
    assert room.memory_budget(0.5, torch.device("cuda")) == float("inf")
