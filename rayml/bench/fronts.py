"""Problems whose Pareto front is known: ZDT1, ZDT2 and ZDT3 (Zitzler, Deb and Thiele, Evol. Computation 8(2), 2000).

Both objectives are made small. The front is where every variable but the first is 0: a curve that is convex, concave,
and in parts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rayml.spec.space import Point
from rayml.stages.tune.worker import Report

LEVELS = {"train.optimizer.lr": 12, "model.width": 5, "model.dropout": 5}
"""Keys of a job that stand for the variables, and how many evenly spaced values from 0 to 1 each has: 300 in all."""

SHAPES: dict[str, Callable[[float, float], float]] = {
    "zdt1": lambda first, share: 1 - math.sqrt(share),
    "zdt2": lambda first, share: 1 - share**2,
    "zdt3": lambda first, share: 1 - math.sqrt(share) - share * math.sin(10 * math.pi * first),
}


@dataclass(frozen=True)
class KnownFront:
    """One of the problems, as a trial that trains nothing."""

    name: str

    def space(self) -> dict[str, Any]:
        """The `tune.space` of a section."""
        return {path: {"choice": [place / (count - 1) for place in range(count)]} for path, count in LEVELS.items()}

    def pair(self, point: Point) -> tuple[float, float]:
        """The two objectives of a configuration."""
        first, *others = (point[path] for path in LEVELS)
        distance = 1 + 9 * sum(others) / len(others)
        return first, distance * SHAPES[self.name](first, first / distance)

    def every(self) -> list[tuple[float, float]]:
        """What an exhaustive search finds."""
        values = [written["choice"] for written in self.space().values()]
        return [self.pair(dict(zip(LEVELS, each, strict=True))) for each in itertools.product(*values)]

    def __call__(self, number: int, point: Point, take: int, report: Report) -> dict[str, Any]:
        loss, size = self.pair(point)
        return {"values": {"val/loss": loss, "size_bytes": size}}
