"""What torch.profiler wrote down, as the intervals that shares are read from and as a table of operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from rayml.stages.train.shares import Interval, StepTrace
from rayml.stages.train.strategies.shared_memory import SUM

READ, STEP = "rayml: read", "rayml: step"
OPTIMIZER = "Optimizer.step#"
MESSAGES = ("gloo:", "nccl")
"""How events begin that last while something travels: gloo's by gloo's own threads, NCCL's by the GPU."""
EXCHANGES = ("c10d::", "_c10d_functional::", "fsdp::", SUM)
OPERATORS = 10


def activities(device: torch.device) -> list[ProfilerActivity]:
    """What is looked at."""
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]


def read_trace(profiler: profile, device: torch.device) -> StepTrace:
    """The intervals of a finished profile, in nanoseconds."""
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None, "it was started and stopped"
    events = profiler.profiler.kineto_results.events()
    on_gpu = device.type == "cuda"
    where = DeviceType.CUDA if on_gpu else DeviceType.CPU

    def find(fits: Callable[[Any], bool]) -> list[Interval]:
        return [(event.start_ns(), event.end_ns()) for event in events if fits(event)]

    return StepTrace(
        reading=find(lambda event: event.name() == READ and event.device_type() == DeviceType.CPU),
        stepping=find(lambda event: event.name() == STEP and event.device_type() == DeviceType.CPU),
        optimizer=find(lambda event: event.name().startswith(OPTIMIZER) and event.device_type() == where),
        computing=find(
            lambda event: event.device_type() == where and (is_kernel(event) if on_gpu else is_operator(event))
        ),
        messages=find(lambda event: event.name().startswith(MESSAGES) and event.device_type() == where),
        exchanging=[] if on_gpu else find(lambda event: event.name().startswith(EXCHANGES)),
    )


def is_operator(event: Any) -> bool:
    """Whether an event of the CPU is an operator's: autograd's own also last while hooks of the strategies wait."""
    name = event.name()
    return (
        "::" in name and not name.startswith((*EXCHANGES, "autograd::", *MESSAGES)) and not event.is_user_annotation()
    )


def is_kernel(event: Any) -> bool:
    return not event.is_user_annotation() and not event.name().startswith(MESSAGES)


def operators(profiler: profile, steps: int, device: torch.device) -> list[dict[str, Any]]:
    """The operators that take most by themselves, without those that they call; milliseconds and calls per step."""
    time_of = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    found = [
        (getattr(average, time_of), average)
        for average in profiler.key_averages()
        if "::" in average.key
        and not average.key.startswith("autograd::")
        and not average.is_async
        and not average.is_user_annotation
    ]
    total = sum(spent for spent, _ in found) or 1.0
    return [
        {
            "name": average.key,
            "self_ms": spent / 1000 / steps,
            "calls": average.count / steps,
            "share": spent / total,
        }
        for spent, average in sorted(found, key=lambda pair: -pair[0])[:OPERATORS]
    ]
