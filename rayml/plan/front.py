"""Which of several trials are better: by one number, or by several at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Sequence[float]
"""A trial's objectives, each turned so that more is better."""
Objective = Mapping[str, str]
"""`metric` and `goal`, which is max or min."""


def known(value: Any) -> bool:
    """Whether a value is a number that can be drawn and compared."""
    return isinstance(value, int | float) and math.isfinite(value)


def has_all(values: Mapping[str, Any], metrics: Iterable[str]) -> bool:
    """Whether a trial can be compared by these metrics."""
    return all(known(values.get(metric)) for metric in metrics)


def turned(values: Mapping[str, float], objectives: Sequence[Objective]) -> list[float]:
    """The objectives of a trial that has them all, each so that more is better."""
    return [values[each["metric"]] * (1.0 if each["goal"] == "max" else -1.0) for each in objectives]


def front(rows: Sequence[Row]) -> list[int]:
    """Places of the rows that no other row dominates (Pareto, 1896): as good in everything and better in something."""
    return [
        place
        for place, row in enumerate(rows)
        if not any(dominates(other, row) for other in rows) and rows.index(row) == place
    ]


def dominates(one: Row, other: Row) -> bool:
    """Whether the first is nowhere worse, and somewhere better."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def knee(rows: Sequence[Row]) -> int:
    """Place of the row of a front that is nearest to the ideal one, which has the best of every objective.

    Each objective counts from its worst (0) to its best (1) on the front (compromise programming; Zeleny, 1973).
    """
    columns = list(zip(*rows, strict=True))
    lows, highs = [min(column) for column in columns], [max(column) for column in columns]

    def distance(row: Row) -> float:
        shares = [(high - value) / ((high - low) or 1.0) for value, low, high in zip(row, lows, highs, strict=True)]
        return math.hypot(*shares)

    return min(range(len(rows)), key=lambda place: distance(rows[place]))


def wilson(share: float, rows: int) -> tuple[float, float]:
    """95 % interval of a share of correct rows (Wilson, JASA 1927)."""
    z = 1.959963984540054
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max(0.0, middle - half), min(1.0, middle + half)
