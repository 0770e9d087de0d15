"""A profiled training is the training itself, with one event more."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import platform
import resource

import numpy as np
import pytest
import torch
from stages.train.ranks import loop_settings, make_shards, run_ranks

from rayml.ml.checkpoint import newest_checkpoint
from rayml.plan.degrees import resolve_degrees
from rayml.stages.train.memory import keep_freed_memory, limit_gpu_memory, peak_resident
from rayml.stages.train.profile import watch
from rayml.stages.train.shares import PARTS

STRATEGIES = {
    "local": ({"kind": "local"}, 1),
    "ddp": ({"kind": "ddp", "bucket_mb": 25.0, "static_graph": False, "compress": "none", "transport": "network"}, 2),
    "fsdp": (
        {"kind": "fsdp", "replicate": 1, "shard": "auto", "reduce": "fp32", "reshard": True, "offload": False},
        2,
    ),
}
MODEL = {"kind": "mlp", "hidden": [40, 30], "dropout": 0.1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards", train=170)


def trained(data, work, strategy, profile=None, **changes):
    """The events and the last checkpoint of a small training."""
    config, workers = STRATEGIES[strategy]
    config = resolve_degrees(config, workers).strategy
    settings = loop_settings(data, work, strategy=config, workers=workers, model=MODEL, **changes)
    if profile is not None:
        settings["profile"] = {**profile, "trace": str(work / "trace.json.gz")}
    codes = run_ranks(settings, workers)
    assert codes == [0] * workers, (work / "errors.log").read_text()[-3000:]
    events = [json.loads(line) for line in (work / "events.jsonl").read_text().splitlines()]
    return events, newest_checkpoint(work / "checkpoints")[0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_profile_says_where_a_step_went_and_changes_nothing(tmp_path, data, strategy):
    plain, before = trained(data, tmp_path / "plain", strategy)
    events, after = trained(data, tmp_path / "watched", strategy, {"steps": 4, "wait": 2}, every_steps=3)
    for name, tensor in before.tensors("model").items():
        torch.testing.assert_close(after.tensors("model")[name], tensor, rtol=0, atol=0)
    assert not [event for event in plain if event["kind"] == "profile"]

    (profile,) = [event for event in events if event["kind"] == "profile"]
    workers = STRATEGIES[strategy][1]
    assert [worker["rank"] for worker in profile["workers"]] == list(range(workers))
    for shares in (profile["shares"], *(worker["shares"] for worker in profile["workers"])):
        assert tuple(shares) == PARTS
        assert sum(shares.values()) == pytest.approx(1)
        assert all(0 <= share <= 1 for share in shares.values())
        assert shares["compute"] > 0
        assert shares["data"] > 0
        assert shares["optimizer"] > 0
        assert shares["checkpoint"] > 0
    assert (profile["shares"]["communication"] > 0) == (workers > 1)
    assert all(worker["memory"]["host"] > 50e6 for worker in profile["workers"])
    assert profile["step_ms"] > 0
    assert profile["bottleneck"]

    operators = profile["operators"]
    assert len(operators) == 10
    assert operators == sorted(operators, key=lambda operator: -operator["self_ms"])
    assert sum(operator["share"] for operator in operators) <= 1
    # Three linear layers, and micro-batches of all 4 steps: forward and backward.
    calls = {operator["name"]: operator["calls"] for operator in operators}
    if strategy != "fsdp":
        assert calls["aten::addmm"] == 3
    with gzip.open(tmp_path / "watched" / profile["trace"]) as stream:
        assert json.load(stream)["traceEvents"]


def test_a_training_that_is_too_short_says_how_many_steps_it_takes(tmp_path, data):
    events, _ = trained(data, tmp_path, "local", {"steps": 40, "wait": 2}, epochs=1)
    texts = [event["text"] for event in events if event["kind"] == "note"]
    assert "no profile: it needs at least 83 steps, and this training had 11; lower train.profile.steps" in texts


def test_without_a_profile_the_loop_gets_what_it_made():
    class Config:
        profile = None

    class Training:
        config = Config()

    training = Training()
    assert watch(training, print) == (training, print)


def take_and_tell(megabytes, mouth):
    before = peak_resident()
    array = np.ones(megabytes * 10**6, dtype=np.uint8)
    del array
    mouth.send((before, peak_resident()))


def test_the_peak_of_a_process_stays_when_memory_is_given_back():
    ears, mouth = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=take_and_tell, args=(300, mouth))
    process.start()
    before, after = ears.recv()
    process.join()
    assert after - before > 200e6


def take_twice_and_tell(keep, mouth):
    """Page faults of taking 200 MB in pieces for the second time."""
    if keep:
        keep_freed_memory()
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        arrays = [np.ones(10**6, dtype=np.uint8) for _ in range(200)]
        del arrays
    mouth.send(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_what_a_step_frees_is_there_for_the_next_one():
    faults = {}
    for keep in (False, True):
        ears, mouth = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(target=take_twice_and_tell, args=(keep, mouth))
        process.start()
        faults[keep] = ears.recv()
        process.join()
    assert faults[True] < faults[False] / 5


def test_without_a_gpu_there_is_nothing_to_limit():
    limit_gpu_memory(0.5, torch.device("cpu"))
    limit_gpu_memory(None, torch.device("cuda"))
