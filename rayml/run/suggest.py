"""From what `rayml tune` measured to what a person should type. Numbers in, numbers out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

SKIPPED = 0.1
"""Share of a ramp at its beginning whose smoothed loss is still that of a few steps."""
FEWEST = 5
KNEE = 0.95
"""Of the most rows per second: what a micro-batch at the knee makes at least."""
ALIKE = 0.97


def suggest_lr(points: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """Where the smoothed loss falls fastest over the logarithm of the learning rate, and where it is least.

    None where it does not fall.
    """
    first = max(FEWEST, int(SKIPPED * len(points)))
    if len(points) <= first + 2:
        return None
    least = min(range(first, len(points)), key=lambda place: points[place]["smooth"])
    slopes = {place: slope(points[place - 1], points[place + 1]) for place in range(first, least)}
    if not slopes or min(slopes.values()) >= 0:
        return None
    steepest = min(slopes, key=lambda place: slopes[place])
    return {"lr": rounded(points[steepest]["lr"]), "steepest": points[steepest]["lr"], "least": points[least]["lr"]}


def slope(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Change of the smoothed loss by the change of the learning rate's logarithm."""
    return (after["smooth"] - before["smooth"]) / (math.log(after["lr"]) - math.log(before["lr"]))


def rounded(value: float) -> float:
    """Two significant digits."""
    return float(f"{value:.1e}")


def suggest_batch(found: Mapping[str, Any]) -> dict[str, Any]:
    """The knee of the table, and the division of the same global batch into micro-batches that is fastest.

    Returns:
        `knee`: rows of a micro-batch from which more rows bring less than 5 %. `accumulation` and `rows`: the fastest
        division of the job's batch, with the fewest micro-batches of those that are alike; None where its micro-batches
        are all larger than what was measured. `gain`: over the job's own division, None where that was not measured.
    """
    table = found["table"]
    most = max(row["samples_per_s"] for row in table)
    knee = next(row["rows"] for row in table if row["samples_per_s"] >= KNEE * most)
    share = found["batch_size"] // found["data"]
    divisions = {parts: share // parts for parts in range(1, share + 1) if share % parts == 0}
    speeds = {parts: speed for parts, rows in divisions.items() if (speed := speed_at(table, rows)) is not None}
    if not speeds:
        return {"knee": knee, "accumulation": None, "rows": None, "gain": None}
    best = next(parts for parts, speed in speeds.items() if speed >= ALIKE * max(speeds.values()))
    present = speeds.get(found["accumulation"])
    return {
        "knee": knee,
        "accumulation": best,
        "rows": divisions[best],
        "gain": None if present is None else speeds[best] / present,
    }


def speed_at(table: Sequence[Mapping[str, float]], rows: int) -> float | None:
    """Rows per second of a micro-batch between two that were measured; None outside."""
    if len(table) == 1 and table[0]["rows"] == rows:
        return table[0]["samples_per_s"]
    for below, above in itertools.pairwise(table):
        if below["rows"] <= rows <= above["rows"]:
            part = math.log(rows / below["rows"]) / math.log(above["rows"] / below["rows"])
            return below["samples_per_s"] + part * (above["samples_per_s"] - below["samples_per_s"])
    return None
