"""What becomes of each rung: kept, rolled back, or refused; and which candidate is the result. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rayml.errors import GateError

Row = dict[str, Any]
"""What rayml.stages.compress.measuring.row measured of a candidate."""

ORDER = {"size": ("bytes", "p50_ms"), "latency": ("p50_ms", "bytes")}


@dataclass(frozen=True)
class Verdict:
    """What becomes of a rung, and why, in one sentence."""

    status: str
    """kept, rolled back or refused."""
    why: str
    smaller: float
    """Share of the bytes of the candidate before that is gone; negative where it grew."""
    faster: float
    """Share of its median latency that is gone."""


def on_one_clock(row: Row, original: Row) -> Row:
    """The row with milliseconds that can be laid beside those of the uncompressed model.

    Each rung was measured in turns with that model, in a process of its own. The ratio is what is known: how fast the
    machine was in that minute is not the candidate's doing.
    """
    latency = {}
    for setting, measured in row["latency"].items():
        before = original["latency"].get(setting)
        factor = 1.0 if before is None else before["p50_ms"] / measured["ratio"] / measured["p50_ms"]
        scaled = {name: measured[name] * factor for name in ("p50_ms", "p95_ms", "p99_ms")}
        latency[setting] = {**measured, **scaled, "rows_per_s": measured["rows_per_s"] / factor}
    return {**row, "latency": latency}


def judge(row: Row, before: Row, *, masked: bool, min_gain: float) -> Verdict:
    """Whether the next pass goes on from this candidate.

    Args:
        row: of this candidate.
        before: of the candidate that the pass changed.
        masked: whether weights were only set to 0.
    """
    smaller = 1 - row["bytes"] / before["bytes"]
    faster = 1 - before["latency"]["1x1"]["ratio"] / row["latency"]["1x1"]["ratio"]
    gains = f"file {percent(smaller)}, median latency {percent(faster)}"
    if masked:
        why = f"its weights are zeros in place, which no runtime here skips: {gains}"
        return Verdict("refused", why, smaller, faster)
    if max(smaller, faster) < min_gain:
        why = f"brought too little: {gains}; min_gain is {100 * min_gain:g} %"
        return Verdict("rolled back", why, smaller, faster)
    return Verdict("kept", gains, smaller, faster)


def percent(share: float) -> str:
    """`-72 %` for what became smaller by that share."""
    return f"{-100 * share:+.0f} %"


def values_of(row: Row) -> dict[str, float]:
    """The numbers that a budget bounds."""
    single = row["latency"]["1x1"]
    return {
        "metric_drop": row["accuracy"]["drop"],
        "agreement": row["agreement"]["value"],
        "size": float(row["bytes"]),
        "p50_ms": single["p50_ms"],
        "p95_ms": single["p95_ms"],
        "ram": float(row["ram"]),
    }


def misses(row: Row, budget: dict[str, float | None]) -> dict[str, tuple[float, float]]:
    """What a candidate does not keep to: name to its value and the bound."""
    values = values_of(row)
    found = {}
    for name, bound in budget.items():
        if bound is None:
            continue
        fits = values[name] >= bound if name == "agreement" else values[name] <= bound
        if not fits:
            found[name] = (values[name], bound)
    return found


def distance(missed: dict[str, tuple[float, float]]) -> float:
    """How far outside a candidate is: the sum of the shares by which it misses each bound."""
    return sum(abs(value - bound) / max(abs(bound), 1e-3) for value, bound in missed.values())


def choose(candidates: list[tuple[str, Row]], budget: dict[str, float | None], prefer: str) -> int:
    """Place of the candidate that wins: the smallest or fastest inside the budget.

    Args:
        candidates: name and row; the uncompressed model first.
    Raises:
        GateError: none is inside. Names the nearest one, and what it misses.
    """
    missed = [misses(row, budget) for _, row in candidates]
    inside = [place for place, found in enumerate(missed) if not found]
    if inside:
        first, second = ORDER[prefer]
        numbers = [{"bytes": row["bytes"], "p50_ms": 1 / row["latency"]["1x1"]["ratio"]} for _, row in candidates]
        return min(inside, key=lambda place: (numbers[place][first], numbers[place][second]))
    nearest = min(range(len(candidates)), key=lambda place: distance(missed[place]))
    name, _ = candidates[nearest]
    lacks = [
        f"{what} {show(what, value)} instead of {show(what, bound)}" for what, (value, bound) in missed[nearest].items()
    ]
    raise GateError(
        f"none of {len(candidates)} candidates is inside the budget; the nearest is {name}: {', '.join(lacks)}",
        where="compress.budget",
        hint="widen the budget, or put other passes into compress.ladder; what was made is kept and not made again",
    )


def show(what: str, value: float) -> str:
    """A bounded number with its unit."""
    if what in ("size", "ram"):
        return f"{value / 1000:,.1f} kB" if value < 1e6 else f"{value / 1e6:,.2f} MB"
    if what.endswith("_ms"):
        return f"{value:.3g} ms"
    return f"{value:.4f}"


def to_json(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict)
