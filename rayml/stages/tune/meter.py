"""What a sweep has spent, and whether that is all it may."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rayml.spec.words import count
from rayml.stages.tune.ledger import Spent

HOUR_S = 3600.0
HEAD = "node:__internal_head__"
"""The resource by which Ray marks its head node."""


@dataclass(frozen=True)
class Nodes:
    """The cluster at one moment."""

    workers: int
    """Nodes besides the head."""
    cpus: float


class Meter:
    """Adds up as time passes.

    Args:
        limits: `wall_s`, `cpu_hours`, `gpu_hours`, `money`; None is no limit.
        prices: `head` and `node` per hour; None is free.
        spent: where an earlier process stopped.
        now: a clock in seconds.
    """

    def __init__(
        self, limits: Mapping[str, float | None], prices: Mapping[str, float | None], spent: Spent, now: float
    ) -> None:
        self.limits, self.prices, self.spent = limits, prices, spent
        self.last = now
        self.holding: dict[int, tuple[float, float]] = {}
        """Running trial to the CPUs and GPUs that it holds."""
        self.nodes = Nodes(0, 0.0)

    def tick(self, now: float) -> None:
        """Count what was held and paid for since the last time."""
        seconds, self.last = now - self.last, now
        hours = seconds / HOUR_S
        self.spent.wall_s += seconds
        self.spent.cpu_hours += hours * sum(cpus for cpus, _ in self.holding.values())
        self.spent.gpu_hours += hours * sum(gpus for _, gpus in self.holding.values())
        self.spent.money += hours * ((self.prices["head"] or 0.0) + self.nodes.workers * (self.prices["node"] or 0.0))

    def exhausted(self) -> str | None:
        """The first limit that is reached, in words; None where none is."""
        for name, value in asdict(self.spent).items():
            limit = self.limits.get(name)
            if limit is not None and value >= limit:
                return in_words(name, limit)
        return None


def in_words(name: str, limit: float) -> str:
    """A limit as a person says it."""
    if name == "wall_s":
        return f"{limit:,.0f} s of time"
    if name == "trials":
        return count(int(limit), "trial")
    return f"{limit:g} of money" if name == "money" else f"{limit:g} {name.replace('_', ' ')}"


def look_at_nodes(read: Callable[[], list[dict[str, Any]]]) -> Nodes:
    """The nodes that are alive, from what `ray.nodes` says."""
    alive = [node["Resources"] for node in read() if node["Alive"]]
    workers = sum(HEAD not in resources for resources in alive)
    return Nodes(workers, sum(float(resources.get("CPU", 0.0)) for resources in alive))
