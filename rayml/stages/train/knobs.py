"""What the autotuner may turn: names of a job's keys, the values worth a try, and a configuration with one of them.

The weights that come out may differ in the order of sums; only `precision` changes more than that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rayml.errors import PlanError
from rayml.plan.combine import check_combination
from rayml.stages.train.state import LoopConfig

MB = 2**20
BUCKETS_MB = (1.0, 5.0, 100.0)
FUSED = ("sgd", "adam", "adamw", "muon")
"""Optimizers of which torch has one kernel for all parameters."""


@dataclass(frozen=True)
class Scene:
    """What decides which values are worth a try."""

    world_size: int
    gpu: bool
    cpus: int
    """Of this machine."""
    gradient_bytes: int
    convolutions: bool

    @property
    def sends(self) -> bool:
        return self.world_size > 1


def candidates(knob: str, config: LoopConfig, scene: Scene) -> list[Any]:
    """Values of a knob that could be faster than the present one, and that a plan would take."""
    others = [value for value in KNOBS[knob](config, scene) if value != present(config, knob)]
    return [value for value in others if goes_together(turned(config, knob, value).train)]


def goes_together(train: dict[str, Any]) -> bool:
    """Whether a plan would take a job with these settings."""
    try:
        check_combination(train)
    except PlanError:
        return False
    return True


def threads(config: LoopConfig, scene: Scene) -> list[int]:
    """One, half, and all that the workers can have; more threads than CPUs wait for each other in turns."""
    most = 0 if scene.gpu else scene.cpus // scene.world_size
    return sorted({each for each in (1, config.threads // 2, most) if 0 < each <= most})


def transport(config: LoopConfig, scene: Scene) -> list[str]:
    strategy = config.train["strategy"]
    can = strategy["kind"] == "ddp" and strategy["compress"] == "none" and hasattr(os, "memfd_create")
    return ["network", "shared_memory"] if can and scene.sends and not scene.gpu else []


def bucket_mb(config: LoopConfig, scene: Scene) -> list[float]:
    """Other sizes of a message, where the gradients do not fit into the first one anyway."""
    strategy = config.train["strategy"]
    splits = strategy["kind"] == "ddp" and strategy["transport"] == "network" and scene.gradient_bytes > MB
    return list(BUCKETS_MB) if splits and scene.sends else []


def channels_last(config: LoopConfig, scene: Scene) -> list[bool]:
    return [True] if scene.convolutions else []


def precision(config: LoopConfig, scene: Scene) -> list[str]:
    allowed = config.train["autotune"]["precision"] and config.train["precision"] == "fp32"
    return ["bf16"] if allowed else []


def fused(config: LoopConfig, scene: Scene) -> list[bool]:
    return [False] if config.train["optimizer"]["kind"] in FUSED else []


KNOBS: dict[str, Callable[[LoopConfig, Scene], list[Any]]] = {
    "strategy.transport": transport,
    "threads": threads,
    "channels_last": channels_last,
    "precision": precision,
    "strategy.bucket_mb": bucket_mb,
    "fused": fused,
}
"""By the job's key below `train`, in the order in which they are tried: what gains most comes first."""


def present(config: LoopConfig, knob: str) -> Any:
    """The value that a configuration has."""
    if knob == "threads":
        return config.threads
    section, _, key = knob.rpartition(".")
    return (config.train[section] if section else config.train)[key]


def turned(config: LoopConfig, knob: str, value: Any) -> LoopConfig:
    """The configuration with another value."""
    if knob == "threads":
        return replace(config, threads=value)
    section, _, key = knob.rpartition(".")
    changed = {section: {**config.train[section], key: value}} if section else {key: value}
    return replace(config, train={**config.train, **changed})
