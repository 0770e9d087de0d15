"""Shares of a step from intervals, and the sentence that they lead to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayml.stages.train.shares import (
    PARTS,
    StepTrace,
    bottleneck,
    common,
    gpu_shares,
    inside_step,
    length,
    mean_shares,
    shares_of_step,
    union,
    with_checkpoint,
    without,
)

INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))))


def moments(intervals):
    return {moment for start, end in intervals for moment in range(start, end)}


@given(INTERVALS, INTERVALS)
def test_intervals_are_sets_of_moments(first, second):
    left, right = union(first), union(second)
    assert moments(left) == moments(first)
    assert moments(common(left, right)) == moments(first) & moments(second)
    assert moments(without(left, right)) == moments(first) - moments(second)
    assert length(left) == len(moments(first))


def step(**changes):
    """A step of 100 ns: 60 compute, 20 more that wait for a message, 20 of the optimizer."""
    trace = {
        "reading": [(-10, 0)],
        "stepping": [(0, 100)],
        "optimizer": [(80, 100)],
        "computing": [(0, 60), (82, 99)],
        "messages": [(30, 80)],
    }
    return StepTrace(**{**trace, **changes})


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        (step(), {"compute": 0.6, "communication": 0.2, "optimizer": 0.2}),
        (step(messages=[]), {"compute": 0.8, "communication": 0.0, "optimizer": 0.2}),
        (step(messages=[(0, 60)]), {"compute": 0.8, "communication": 0.0, "optimizer": 0.2}),
        (step(messages=[(70, 200)]), {"compute": 0.7, "communication": 0.13, "optimizer": 0.17}),
        # What is handed over keeps this worker busy, whatever it copies meanwhile.
        (step(exchanging=[(10, 20)]), {"compute": 0.5, "communication": 0.3, "optimizer": 0.2}),
    ],
)
def test_communication_is_what_could_not_be_hidden(trace, expected):
    assert inside_step(trace) == pytest.approx(expected)


def test_a_gpu_that_is_idle_waits_for_rows_or_for_the_loop():
    trace = StepTrace(
        reading=[(0, 30)],
        stepping=[(30, 60)],
        optimizer=[(90, 100)],
        computing=[(40, 70), (90, 100)],
        messages=[(60, 85)],
    )
    expected = {"compute": 0.3, "communication": 0.15, "data": 0.3, "optimizer": 0.1, "other": 0.15}
    assert gpu_shares(trace) == pytest.approx(expected)
    whole = with_checkpoint(gpu_shares(trace), step_s=0.08, checkpoint_s=0.02)
    assert whole["checkpoint"] == pytest.approx(0.2)
    assert sum(whole.values()) == pytest.approx(1)


def test_shares_add_up():
    seconds = {"read": 0.01, "step": 0.08, "other": 0.005, "checkpoint": 0.005}
    shares = shares_of_step(seconds, inside_step(step()))
    assert tuple(shares) == PARTS
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["data"] == pytest.approx(0.1)
    assert shares["communication"] == pytest.approx(0.8 * 0.2)


DDP = {"kind": "ddp", "bucket_mb": 25.0, "static_graph": False, "compress": "none", "transport": "network"}
TRAIN = {
    "task": "image_classification",
    "workers": 2,
    "batch_size": 48,
    "precision": "fp32",
    "strategy": DDP,
    "optimizer": {"kind": "lamb", "lr": 0.01},
    "activation_checkpointing": False,
    "channels_last": False,
    "compile": False,
}
CASES = [
    ({"data": 0.3}, {}, {}, "Reading rows takes 30 % of a step", "data.image.size"),
    ({"communication": 0.4}, {}, {}, "Waiting for the other workers takes 40 %", "train.batch_size (now 48)"),
    ({"communication": 0.4}, {}, {}, "compress", "bf16 (now none)"),
    ({"communication": 0.4}, {"strategy": {**DDP, "compress": "bf16"}}, {}, "fewer", "train.workers (now 2)"),
    ({"communication": 0.4}, {"strategy": {"kind": "fsdp", "reshard": True}}, {}, "reshard: false", "{kind: ddp}"),
    ({"checkpoint": 0.2}, {}, {"every_steps": 5}, "20 % of the time", "train.checkpoint.every_steps (now 5)"),
    ({"checkpoint": 0.2}, {}, {}, "after every epoch", "faster disk"),
    ({"optimizer": 0.4}, {}, {}, "The optimizer's step (lamb) takes 40 %", "train.batch_size (now 48)"),
    ({"other": 0.5}, {}, {}, "The loop around the steps takes 50 %", "train.batch_size (now 48)"),
    ({}, {}, {}, "The workers compute 100 % of the time, as they should", "train.channels_last: true (now false)"),
    ({}, {"task": "tabular_classification"}, {}, "as they should", "train.compile: true (now false)"),
    ({}, {}, {"gpu": True}, "as they should", "train.precision: bf16 (now fp32)"),
    ({}, {"activation_checkpointing": True}, {}, "as they should", "train.activation_checkpointing: false (now true)"),
    ({}, {"channels_last": True, "compile": True}, {}, "as they should", "more workers"),
    # The part that is furthest beyond what it may take is named, not the largest.
    ({"communication": 0.2, "checkpoint": 0.18}, {}, {}, "checkpoints", "18 %"),
]


@pytest.mark.parametrize(("parts", "train", "policy", "what", "knob"), CASES)
def test_the_sentence_names_the_bottleneck_and_the_key_that_changes_it(parts, train, policy, what, knob):
    shares = {**dict.fromkeys(PARTS, 0.0), **parts, "compute": 1 - sum(parts.values())}
    sentence = bottleneck([shares, shares], {**TRAIN, **train}, {"every_steps": 0, "gpu": False, **policy})
    assert what in sentence
    assert knob in sentence


def test_a_slow_worker_is_named():
    fast = {**dict.fromkeys(PARTS, 0.0), "compute": 0.5, "communication": 0.5}
    slow = {**fast, "compute": 0.95, "communication": 0.05}
    sentence = bottleneck([fast, slow, fast], TRAIN, {"every_steps": 0, "gpu": False})
    assert sentence.startswith("Worker 1 is slower than the others, which wait for it 50 % of a step")
    assert mean_shares([fast, slow])["communication"] == pytest.approx(0.275)
