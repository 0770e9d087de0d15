"""From times to shares of a step, and from shares to a sentence. Numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PARTS = ("compute", "communication", "data", "optimizer", "checkpoint", "other")
"""Forward and backward pass; waiting for the other workers; reading rows; the optimizer's step; waiting for a
checkpoint; the loop around it, and a GPU's idle time while the worker prepares what comes next."""

Interval = tuple[int, int]
"""Start and end in nanoseconds."""
FOREVER = 2**63

TOO_MUCH = {"data": 0.15, "communication": 0.15, "checkpoint": 0.1, "optimizer": 0.25, "other": 0.2}
"""Share of a step from which a part is worth a change."""
UNEQUAL = 0.2
"""Difference between the shares that two workers wait for the others, from which the slower one is named."""


@dataclass(frozen=True)
class StepTrace:
    """What a profiler saw of some steps on one worker."""

    reading: Sequence[Interval]
    """The reading of rows."""
    stepping: Sequence[Interval]
    """The steps, without the reading of rows."""
    optimizer: Sequence[Interval]
    """The optimizer's steps; of a GPU, its work on them."""
    computing: Sequence[Interval]
    """While an operator or, on a GPU, a kernel worked."""
    messages: Sequence[Interval]
    """While something was on its way to or from other workers."""
    exchanging: Sequence[Interval] = ()
    """While this worker did nothing but hand over or take what travels."""


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same moments as intervals in order that do not overlap."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def common(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    """The moments that are in both; each in order and without overlaps."""
    found, left, right = [], 0, 0
    while left < len(first) and right < len(second):
        start, end = max(first[left][0], second[right][0]), min(first[left][1], second[right][1])
        if start < end:
            found.append((start, end))
        if first[left][1] < second[right][1]:
            left += 1
        else:
            right += 1
    return found


def without(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    """The moments of the first that are not in the second; each in order and without overlaps."""
    edges = [edge for interval in second for edge in interval]
    gaps = list(zip([-FOREVER, *edges[1::2]], [*edges[::2], FOREVER], strict=True))
    return common(first, gaps)


def length(intervals: Iterable[Interval]) -> int:
    return sum(end - start for start, end in intervals)


def inside_step(trace: StepTrace) -> dict[str, float]:
    """Compute, communication and optimizer as shares of the time within the steps; they add up to 1.

    Communication is what could not be hidden: messages are on their way, and nothing is computed. What belongs to none
    of the three (the interpreter between two operators) is part of compute, which could not be done without it.
    """
    step, exchanging = union(trace.stepping), union(trace.exchanging)
    alone = without(union(trace.messages), union(trace.computing))
    waiting = common(union([*alone, *exchanging]), step)
    optimizer = without(common(union(trace.optimizer), step), waiting)
    shares = {"communication": length(waiting) / length(step), "optimizer": length(optimizer) / length(step)}
    return {"compute": 1 - sum(shares.values()), **shares}


def gpu_shares(trace: StepTrace) -> dict[str, float]:
    """All shares but the checkpoint's as a GPU sees them, from the first reading to the last step; they add up to 1.

    What it waits for is read from what the worker did meanwhile: reading rows, or anything else.
    """
    cpu, kernels = union([*trace.reading, *trace.stepping]), union(trace.computing)
    window = [(cpu[0][0], max(cpu[-1][1], kernels[-1][1]))]
    optimizer = common(union(trace.optimizer), kernels)
    messages = without(union(trace.messages), kernels)
    idle = without(window, union([*kernels, *messages]))
    reading = common(idle, union(trace.reading))
    parts = {
        "compute": length(common(kernels, window)) - length(optimizer),
        "communication": length(common(messages, window)),
        "data": length(reading),
        "optimizer": length(optimizer),
        "other": length(idle) - length(reading),
    }
    return {name: part / length(window) for name, part in parts.items()}


def shares_of_step(seconds: Mapping[str, float], inside: Mapping[str, float]) -> dict[str, float]:
    """Every part's share; they add up to 1.

    Args:
        seconds: read, step, other and checkpoint of one step.
        inside: what `inside_step` says of `step`.
    """
    parts = {name: share * seconds["step"] for name, share in inside.items()}
    return add_up({**parts, "data": seconds["read"], "checkpoint": seconds["checkpoint"], "other": seconds["other"]})


def with_checkpoint(shares: Mapping[str, float], step_s: float, checkpoint_s: float) -> dict[str, float]:
    """What `gpu_shares` says, with the share of the checkpoints' time of one step."""
    return add_up({**{name: share * step_s for name, share in shares.items()}, "checkpoint": checkpoint_s})


def add_up(parts: Mapping[str, float]) -> dict[str, float]:
    """The parts as shares of their sum."""
    total = sum(parts.values())
    return {name: parts[name] / total for name in PARTS}


def mean_shares(workers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over all workers."""
    return {name: sum(shares[name] for shares in workers) / len(workers) for name in PARTS}


def bottleneck(workers: Sequence[Mapping[str, float]], train: Mapping[str, Any], policy: Mapping[str, Any]) -> str:
    """What holds training up, and which key of the job file changes it.

    Args:
        workers: shares of each worker.
        train: the train step's configuration.
        policy: `every_steps` of the checkpoints, and whether there is a `gpu`.
    """
    shares = mean_shares(workers)
    waits = [each["communication"] for each in workers]
    if max(waits) - min(waits) > UNEQUAL:
        slow = waits.index(min(waits))
        return (
            f"Worker {slow} is slower than the others, which wait for it {percent(max(waits))} of a step: see what "
            f"else runs on its machine, or use equal ones"
        )
    beyond = {name: shares[name] / limit for name, limit in TOO_MUCH.items() if shares[name] >= limit}
    part = max(beyond, key=lambda name: beyond[name], default="compute")
    return SENTENCES[part](percent(shares[part]), train, policy)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def on_data(share: str, train: Mapping[str, Any], policy: Mapping[str, Any]) -> str:
    return (
        f"Reading rows takes {share} of a step: put the home folder (--home) on a faster disk, or make the rows "
        f"smaller, images by data.image.size"
    )


def on_communication(share: str, train: Mapping[str, Any], policy: Mapping[str, Any]) -> str:
    strategy, said = train["strategy"], f"Waiting for the other workers takes {share} of a step: "
    if strategy["kind"] == "ddp" and strategy.get("compress") == "none" and strategy.get("transport") == "network":
        return said + f"{raise_batch(train)}, or send less by train.strategy.compress: bf16 (now none)"
    if strategy["kind"] == "fsdp" and strategy.get("reshard"):
        return (
            said
            + f"{raise_batch(train)}, keep gathered weights by train.strategy.reshard: false (now true), or, "
            + ("if a whole model fits in a worker's memory, write train.strategy: {kind: ddp}")
        )
    return said + f"{raise_batch(train)}, or use fewer train.workers (now {train['workers']})"


def on_checkpoint(share: str, train: Mapping[str, Any], policy: Mapping[str, Any]) -> str:
    said, every = f"Waiting for checkpoints takes {share} of the time: ", policy["every_steps"]
    if every:
        return said + f"raise train.checkpoint.every_steps (now {every})"
    return said + "put the home folder (--home) on a faster disk; one is written after every epoch"


def on_optimizer(share: str, train: Mapping[str, Any], policy: Mapping[str, Any]) -> str:
    kind = train["optimizer"]["kind"]
    return (
        f"The optimizer's step ({kind}) takes {share} of a step: {raise_batch(train)}, so that there are fewer of them"
    )


def on_other(share: str, train: Mapping[str, Any], policy: Mapping[str, Any]) -> str:
    return f"The loop around the steps takes {share} of the time, since a step is so short: {raise_batch(train)}"


def on_compute(share: str, train: Mapping[str, Any], policy: Mapping[str, Any]) -> str:
    said = f"The workers compute {share} of the time, as they should"
    untried = [
        (policy["gpu"] and train["precision"] == "fp32", "train.precision: bf16 (now fp32)"),
        (train["activation_checkpointing"], "train.activation_checkpointing: false (now true), if memory allows"),
        (
            train["task"] == "image_classification" and not train["channels_last"],
            "train.channels_last: true (now false)",
        ),
        (not train["compile"], "train.compile: true (now false)"),
    ]
    first = next((knob for worth, knob in untried if worth), None)
    return f"{said}; what may still make a step faster: {first}" if first else f"{said}; more speed takes more workers"


def raise_batch(train: Mapping[str, Any]) -> str:
    return f"raise train.batch_size (now {train['batch_size']})"


SENTENCES = {
    "data": on_data,
    "communication": on_communication,
    "checkpoint": on_checkpoint,
    "optimizer": on_optimizer,
    "other": on_other,
    "compute": on_compute,
}
"""Part of a step to what is said where it is the bottleneck."""
