"""Axes of drawings: where a value stands between two ends, linear or logarithmic, and round ticks with their texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rayml.report import svg, words

LOG_FROM = 20.0
"""Positive values of which the largest is so many times the smallest are drawn by their logarithm."""
OUTLIER = 1.5
"""Values further away from the middle nine tenths than so many times their width stand at the edge."""

Tick = tuple[float, str]
"""Share of the axis from its low end, and text."""


@dataclass(frozen=True)
class Scale:
    """A range of numbers on an axis."""

    low: float
    high: float
    is_log: bool = False
    metric: str = ""
    """What the numbers are, for the unit of their texts."""
    is_whole: bool = False

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one; what is beyond an end stands at it."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, self.low))
        return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5

    def ticks(self, wanted: int = 5) -> list[Tick]:
        """Round numbers of the range, from low to high."""
        if self.is_log:
            values = self._log_values(wanted)
        elif self.is_whole:
            values = list(map(float, svg.epoch_ticks(round(self.low), round(self.high), wanted)))
        else:
            values = svg.nice_ticks(self.low, self.high, wanted)
        slack = 1e-9 * (self.high - self.low)
        inside = [value for value in values if self.low - slack <= value <= self.high + slack]
        if len(inside) < 2:
            inside = [self.low, self.high] if self.high > self.low else [self.low]
        texts = [self._text(value, inside) for value in inside]
        return [(self.share(value), text) for value, text in zip(inside, texts, strict=True)]

    def _log_values(self, wanted: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            values = [factor * 10.0**power for power in powers for factor in factors]
            inside = [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]
            if len(inside) <= wanted + 1:
                return inside
        return inside[:: math.ceil(len(inside) / wanted)]

    def _text(self, value: float, ticks: Sequence[float]) -> str:
        if self.metric == "size_bytes":
            return words.size(value).replace(".0 ", " ")
        if self.metric.endswith("_ms"):
            return f"{value:.3g} ms"
        if self.is_whole:
            return f"{value:,.0f}"
        if self.is_log or len(ticks) < 2:
            return f"{value:.3g}" if value < 1e4 else f"{value:,.0f}"
        even = all(math.isclose(after - before, ticks[1] - ticks[0], rel_tol=1e-6) for before, after in pairwise(ticks))
        return svg.tick_text(value, ticks) if even and abs(value) < 1e4 else f"{value:,.4g}"


def fitted(values: Sequence[float], metric: str = "", *, can_be_log: bool = True) -> Scale:
    """A scale for values that were measured. One that is far away from all others does not squeeze them."""
    low, high = min(values), max(values)
    if can_be_log and low > 0 and high / low > LOG_FROM:
        return Scale(low / 1.1, high * 1.1, is_log=True, metric=metric)
    order = sorted(values)
    near, far = order[len(order) // 20], order[-1 - len(order) // 20]
    if far > near:
        low = near if near - low > OUTLIER * (far - near) else low
        high = far if high - far > OUTLIER * (far - near) else high
    ticks = svg.nice_ticks(low, high)
    return Scale(ticks[0], ticks[-1], metric=metric)


@dataclass(frozen=True)
class Axis:
    """An upright axis of one searched key or objective."""

    name: str
    title: str
    """The whole name, said on hover."""
    remark: str
    ticks: Sequence[Tick]
    place: Callable[[object], float | None]
    """Share of the axis, for a value; None where it cannot be placed."""
    is_choice: bool = False


def number_axis(name: str, title: str, remark: str, scale: Scale) -> Axis:
    """An axis of numbers."""

    def place(value: object) -> float | None:
        return 0.03 + 0.94 * scale.share(value) if isinstance(value, int | float) else None

    return Axis(name, title, remark, [(0.03 + 0.94 * at, text) for at, text in scale.ticks()], place)


def choice_axis(name: str, title: str, values: Sequence[object], texts: Sequence[str]) -> Axis:
    """An axis of values without a distance: each at its own height."""

    def at(index: int) -> float:
        return 0.06 + 0.88 * index / (len(values) - 1) if len(values) > 1 else 0.5

    def place(value: object) -> float | None:
        return next((at(index) for index, known in enumerate(values) if known == value), None)

    return Axis(name, title, "", [(at(index), text) for index, text in enumerate(texts)], place, is_choice=True)
