"""The autotuner: what it tries, how it decides, and a training that is that of a job which names the choice itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from stages.train.ranks import loop_settings, make_shards, run_ranks, train_settings

from rayml.ml.checkpoint import newest_checkpoint
from rayml.stages.train.autotune import FILE, Comparison, interval, sentence
from rayml.stages.train.knobs import KNOBS, Scene, candidates, present, turned
from rayml.stages.train.state import LoopConfig

TUNE = {"steps": 5, "precision": True}
DDP = {"kind": "ddp", "bucket_mb": 25.0, "static_graph": False, "compress": "none", "transport": "network"}


def config(threads=1, **changes):
    train = {**train_settings(), "strategy": DDP, "autotune": TUNE, **changes}
    return LoopConfig(
        train=train, every_steps=0, keep=1, threads=threads, data="daten", checkpoints="größe/checkpoints", code=None
    )


def scene(**changes):
    known = {"world_size": 2, "gpu": False, "cpus": 16, "gradient_bytes": 85_000, "convolutions": True}
    return Scene(**{**known, **changes})


@pytest.mark.parametrize(
    ("knob", "changes", "around", "expected"),
    [
        ("threads", {}, {}, [8]),
        ("threads", {}, {"cpus": 2}, []),
        ("threads", {}, {"gpu": True}, []),
        ("threads", {"threads": 8}, {}, [1, 4]),
        ("strategy.transport", {}, {}, ["shared_memory"]),
        ("strategy.transport", {"strategy": {**DDP, "transport": "shared_memory"}}, {}, ["network"]),
        ("strategy.transport", {}, {"world_size": 1}, []),
        ("strategy.transport", {}, {"gpu": True}, []),
        ("strategy.transport", {"strategy": {**DDP, "compress": "bf16"}}, {}, []),
        ("strategy.transport", {"strategy": {"kind": "fsdp"}}, {}, []),
        ("strategy.bucket_mb", {}, {}, []),
        ("strategy.bucket_mb", {}, {"gradient_bytes": 45_000_000}, [1.0, 5.0, 100.0]),
        ("strategy.bucket_mb", {"strategy": {**DDP, "bucket_mb": 5.0}}, {"gradient_bytes": 45_000_000}, [1.0, 100.0]),
        ("strategy.bucket_mb", {"strategy": {**DDP, "transport": "shared_memory"}}, {"gradient_bytes": 10**8}, []),
        ("channels_last", {}, {}, [True]),
        ("channels_last", {"channels_last": True}, {}, []),
        ("channels_last", {}, {"convolutions": False}, []),
        ("channels_last", {"strategy": {"kind": "fsdp"}}, {}, []),
        ("precision", {}, {}, ["bf16"]),
        ("precision", {"autotune": {**TUNE, "precision": False}}, {}, []),
        ("precision", {"precision": "fp16"}, {}, []),
        ("fused", {}, {}, [False]),
        ("fused", {"optimizer": {"kind": "lion"}}, {}, []),
    ],
)
def test_only_what_can_be_faster_is_tried(knob, changes, around, expected):
    assert candidates(knob, config(**changes), scene(**around)) == expected


def test_a_turned_knob_changes_its_key_and_nothing_else():
    before = config()
    for knob in KNOBS:
        after = turned(before, knob, "other")
        assert present(after, knob) == "other"
        assert turned(after, knob, present(before, knob)) == before
    assert present(before, "strategy.transport") == "network"


def test_the_interval_is_that_of_the_signs():
    assert interval(list(range(1, 21))) == (6, 15)  # binomial: P(fewer than 6 of 20 below the median) = 0.021
    assert interval([3, 1, 2, 5, 4]) == (1, 5)


@pytest.mark.parametrize(
    ("gain", "low", "finite", "won"),
    [(1.2, 1.1, True, True), (1.2, 0.99, True, False), (1.02, 1.01, True, False), (1.5, 1.4, False, False)],
)
def test_a_knob_changes_where_the_gain_is_beyond_doubt(gain, low, finite, won):
    assert Comparison(4.0, 4.0 / gain, gain, (low, 2.0), finite).is_won is won


def test_the_choice_is_told_as_keys_that_can_be_typed():
    chosen = {"strategy.transport": "shared_memory", "channels_last": True, "threads": 2}
    together = {"before_ms": 4.1, "after_ms": 2.5, "gain": 1.64, "interval": [1.6, 1.7]}
    text = sentence({"chosen": chosen, "together": together})
    assert text.endswith("train.strategy.transport=shared_memory train.channels_last=true train.threads=2")
    assert "1.64x, 4.10 to 2.50 ms" in text
    assert "nothing that was tried is faster" in sentence({"chosen": {}, "together": None})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def told(settings, kind):
    lines = Path(settings["events"]).read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def trained(data, work, world_size, **changes):
    settings = loop_settings(data, work, **changes)
    work.mkdir(exist_ok=True)
    assert run_ranks(settings, world_size) == [0] * world_size, Path(settings["errors"]).read_text()[-3000:]
    checkpoint, _ = newest_checkpoint(work / "checkpoints")
    return checkpoint, settings


def same_bits(first, second):
    mine, theirs = ({**each.tensors("model"), **each.tensors("optimizer")} for each in (first, second))
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(
    ("strategy", "world_size"),
    [
        (DDP, 2),
        ({"kind": "fsdp", "replicate": 1, "shard": 2, "reduce": "fp32", "reshard": True, "offload": False}, 2),
        ({"kind": "local"}, 1),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_the_training_is_that_of_a_job_that_names_what_was_chosen(tmp_path, data, strategy, world_size):
    common = {"strategy": strategy, "workers": world_size, "epochs": 2}
    tuned, settings = trained(data, tmp_path / "tuned", world_size, autotune=TUNE, **common)
    (fact,) = told(settings, "fact")
    assert fact["name"] == "autotune"
    result = fact["value"]
    tried = {row["knob"] for row in result["candidates"]}
    assert tried >= {"precision", "fused"}
    assert ("channels_last" in tried) == (strategy["kind"] != "fsdp")
    assert ("strategy.transport" in tried) == (strategy["kind"] == "ddp")
    assert result["chosen"] == {row["knob"]: row["value"] for row in result["candidates"] if row["kept"]}

    section = {key: value for key, value in result["chosen"].items() if "." not in key}
    own = {key.partition(".")[2]: value for key, value in result["chosen"].items() if "." in key}
    named, _ = trained(data, tmp_path / "named", world_size, **{**common, "strategy": {**strategy, **own}, **section})
    assert same_bits(tuned, named)


def test_a_run_that_goes_on_keeps_what_was_chosen(tmp_path, data):
    """Chosen before the interruption, whatever would be faster now."""
    chosen = {"strategy.transport": "shared_memory", "channels_last": True, "fused": False}
    together = {"before_ms": 4.0, "after_ms": 2.0, "gain": 2.0, "interval": [1.9, 2.1]}
    work = tmp_path / "work"
    work.mkdir()
    kept = {"steps": 20, "chosen": chosen, "together": together, "candidates": [], "seconds": 1.0}
    (work / FILE).write_text(json.dumps(kept))
    trained(data, work, 2, autotune=TUNE, epochs=1)
    went_on, settings = trained(data, work, 2, autotune=TUNE, epochs=2)
    assert [event["value"] for event in told(settings, "fact")] == [kept, kept]

    strategy = {**DDP, "transport": "shared_memory"}
    named, _ = trained(data, tmp_path / "named", 2, strategy=strategy, channels_last=True, fused=False, epochs=2)
    assert same_bits(went_on, named)
