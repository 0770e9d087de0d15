"""The search space as a value: its keys in the order in which they are drawn, how large it is, what a draw is.

A draw is a pure function of (seed, number), so that a plan can show the first configurations and a sweep that goes on
after a crash draws the same ones.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rayml.spec.expression import Expression, parse_expression
from rayml.spec.job import JobSpec
from rayml.spec.point import base_values
from rayml.spec.tune import RANGES, RangeSpec, TuneSpec

Point = dict[str, Any]
"""Key to value: the keys that a configuration sets. A key whose `when` does not hold is not in it."""

MAX_DRAWS = 1_000
"""Draws for one configuration before its constraints count as impossible."""
MAX_COUNTED = 100_000


@dataclass(frozen=True)
class Dimension:
    """One key and its range."""

    path: str
    kind: str
    """choice, uniform, loguniform, integer or log_integer."""
    values: tuple[Any, ...] = ()
    """Of a choice."""
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Other keys, and the values of theirs with which this one is searched."""
    is_grid: bool = False

    @property
    def is_integer(self) -> bool:
        return self.kind in ("integer", "log_integer")

    @property
    def is_log(self) -> bool:
        return self.kind in ("loguniform", "log_integer")

    @cached_property
    def levels(self) -> tuple[Any, ...] | None:
        """Every value that it may have, or None where they cannot be counted."""
        if self.kind == "choice":
            return self.values
        if self.step is None and not self.is_integer:
            return None
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        if count > MAX_COUNTED:
            return None
        return tuple(self._clean(self.low + place * step) for place in range(count))

    def at(self, share: float) -> Any:
        """The value below which a share of all draws lies, `0 <= share < 1`."""
        if self.kind == "choice":
            return self.values[int(share * len(self.values))]
        if self.is_log:
            edge = 0.5 if self.is_integer else 0.0
            low, high = math.log(self.low - edge), math.log(self.high + edge)
            value = math.exp(low + share * (high - low))
            return self._clean(min(max(value, self.low), self.high))
        if self.levels is not None:
            return self.levels[int(share * len(self.levels))]
        return self._clean(self.low + share * (self.high - self.low))

    def holds(self, value: Any) -> bool:
        """Whether the range has a value."""
        if self.kind == "choice":
            return any(_same(value, each) for each in self.values)
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / (self.step or 1)
        return not (self.is_integer or self.step) or abs(steps - round(steps)) < 1e-9

    def is_active(self, point: Mapping[str, Any]) -> bool:
        """Whether it is searched beside the values of a point, which has the keys that it depends on."""
        return all(path in point and any(_same(point[path], each) for each in values) for path, values in self.when)

    def to_json(self) -> dict[str, Any]:
        """As a sweep's document has it; of a choice, both ends are None."""
        is_choice = self.kind == "choice"
        return {
            "path": self.path,
            "kind": self.kind,
            "values": list(self.values),
            "low": None if is_choice else self.low,
            "high": None if is_choice else self.high,
            "step": self.step,
            "when": [[path, list(values)] for path, values in self.when],
        }

    def _clean(self, value: float) -> Any:
        """A whole number where one is meant; without the last digits that steps leave (0.30000000000000004)."""
        return round(value) if self.is_integer else float(f"{value:.12g}")


def _same(one: Any, other: Any) -> bool:
    """Equal, and not as `1 == True` is."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


@dataclass(frozen=True)
class Space:
    """All keys, those that others depend on first, and what has to hold between them."""

    dimensions: tuple[Dimension, ...]
    constraints: tuple[Expression, ...]
    base: Mapping[str, Any]
    """The job's own values of keys that constraints name and the space does not have."""

    @cached_property
    def size(self) -> int | None:
        """How many configurations there are, constraints aside; None where they cannot be counted."""
        if any(dimension.levels is None for dimension in self.dimensions):
            return None
        if all(not dimension.when for dimension in self.dimensions):
            return math.prod(len(dimension.levels or ()) for dimension in self.dimensions)
        counted = sum(1 for _ in itertools.islice(self.walk(), MAX_COUNTED + 1))
        return counted if counted <= MAX_COUNTED else None

    def walk(self) -> Iterator[Point]:
        """Every configuration of a countable space, constraints aside; the last key changes fastest."""
        return self._walk({}, 0)

    def _walk(self, point: Point, at: int) -> Iterator[Point]:
        if at == len(self.dimensions):
            yield dict(point)
            return
        dimension = self.dimensions[at]
        if not dimension.is_active(point):
            yield from self._walk(point, at + 1)
            return
        assert dimension.levels is not None, "only a space that can be counted is walked"
        for value in dimension.levels:
            yield from self._walk({**point, dimension.path: value}, at + 1)

    def grid(self) -> Iterator[Point]:
        """Every configuration that keeps to the constraints."""
        return (point for point in self.walk() if self.allows(point))

    def at(self, shares: Sequence[float]) -> Point:
        """The configuration at a place of the unit cube, a share for each key whether it is searched or not."""
        point: Point = {}
        for dimension, share in zip(self.dimensions, shares, strict=True):
            if dimension.is_active(point):
                point[dimension.path] = dimension.at(share)
        return point

    def draw(self, seed: int, number: int, again: int = 0) -> Point | None:
        """Configuration `number` of a random search: a pure function of its arguments.

        Args:
            again: how often an earlier draw of this number was of no use.

        Returns:
            None where no draw keeps to the constraints.
        """
        source = random.Random(f"{seed}/{number}/{again}")  # noqa: S311 (a search, and repeatable)
        for _ in range(MAX_DRAWS):
            point = self.at([source.random() for _ in self.dimensions])
            if self.allows(point):
                return point
        return None

    def allows(self, point: Point) -> bool:
        """Whether every constraint holds."""
        values = {**self.base, **point}
        for dimension in self.dimensions:
            if dimension.path not in point:
                values.pop(dimension.path, None)
        return all(constraint.holds(values) for constraint in self.constraints)

    def holds(self, point: Point) -> bool:
        """Whether a configuration from elsewhere is one of this space."""
        known = {dimension.path: dimension for dimension in self.dimensions}
        if any(path not in known for path in point):
            return False
        wanted = {dimension.path for dimension in self.dimensions if dimension.is_active(point)}
        return wanted == set(point) and all(known[path].holds(value) for path, value in point.items())


def space_of(job: JobSpec) -> Space:
    """The space of a job that has a sweep, with the job's own values of what its constraints name."""
    assert job.tune is not None, "the caller looked"
    return build_space(job.tune, base_values(job))


def build_space(tune: TuneSpec, base: Mapping[str, Any]) -> Space:
    """The space of a section that was checked.

    Args:
        base: the job's own values by key.
    """
    dimensions = [dimension_of(path, tune.space[path]) for path in ordered(tune)]
    constraints = tuple(parse_expression(text) for text in tune.constraints)
    named = {name for constraint in constraints for name in constraint.names}
    return Space(tuple(dimensions), constraints, {name: base[name] for name in sorted(named & set(base))})


def ordered(tune: TuneSpec) -> list[str]:
    """The keys, each after those that its `when` names. ValueError where they go round in a circle."""
    found: list[str] = []
    left = list(tune.space)
    while left:
        ready = [path for path in left if all(other in found for other in tune.space[path].when)]
        if not ready:
            raise ValueError(f"`when` goes round in a circle: {', '.join(left)}")
        found += ready
        left = [path for path in left if path not in ready]
    return found


def dimension_of(path: str, written: RangeSpec) -> Dimension:
    """A key with the range that a job writes for it."""
    kind = next(name for name in RANGES if getattr(written, name) is not None)
    when = tuple(
        (other, tuple(value) if isinstance(value, list | tuple) else (value,)) for other, value in written.when.items()
    )
    if kind in ("choice", "grid"):
        return Dimension(path, "choice", values=getattr(written, kind), when=when, is_grid=kind == "grid")
    low, high = getattr(written, kind)
    return Dimension(path, kind, low=low, high=high, step=written.step, when=when)
