"""Which configuration is tried next: known ones first, then what a search proposes."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from rayml.spec.space import Point, Space

REDRAWS = 20
"""Proposals for one trial that may be of no use before configurations are drawn at random."""
MAX_LISTED = 100_000
"""A space of more configurations is not listed to find the ones that were not tried."""

KNOWN = "known"
"""Origin of a configuration that no search proposed."""

Refuses = Callable[[Point], str | None]
"""Why the job with these values cannot be planned; None where it can."""


class Search(Protocol):
    """Learns from trials and proposes configurations. Every method is called in the order of the ledger."""

    origin: str
    """What the ledger says of its proposals."""

    def propose(self, number: int, again: int) -> Point | None:
        """The configuration of trial `number`, or None where there is nothing left.

        Args:
            again: how many proposals for this number were of no use.
        """

    def accept(self, number: int, point: Point, again: int) -> None:
        """Trial `number` runs with this configuration, whoever proposed it.

        Args:
            again: how many proposals for this number were of no use, -1 where none was asked for. Where they were made
                in an earlier process, they are made again, so that what follows is the same.
        """

    def add(self, point: Point, values: list[float]) -> None:
        """Learn from a trial of an earlier sweep: its objectives."""

    def learn(self, number: int, values: list[float] | None, curve: list[tuple[int, float]], *, complete: bool) -> None:
        """What came of a trial.

        Args:
            values: its objectives; None where it failed or was stopped before it had all.
            curve: epoch and first objective.
            complete: whether it trained to its end.
        """


@dataclass(frozen=True)
class Proposal:
    """A configuration, and where it came from."""

    point: Point
    origin: str
    again: int = 0
    """How many proposals of the search were of no use before."""


class Proposals:
    """Hands out configurations that are new, that keep to the constraints, and that the job's rules take."""

    def __init__(self, space: Space, known: list[Point], search: Search, refuses: Refuses) -> None:
        self.space, self.known, self.search, self.refuses = space, known, search, refuses
        self.seen: set[str] = set()
        self.refused: list[str] = []
        """What was said of configurations that the job's rules do not take."""

    def next(self, number: int) -> Proposal | None:
        """The configuration of trial `number`; None where every one has been tried or is refused."""
        for known in self.known:
            if not self.is_seen(known) and self.is_usable(known):
                return Proposal(known, KNOWN)
        for again in range(REDRAWS):
            point = self.search.propose(number, again)
            if point is None:
                return None
            if not self.is_seen(point) and self.is_usable(point):
                return Proposal(point, self.search.origin, again)
        return next(self.fresh(number), None)

    def fresh(self, number: int) -> Iterator[Proposal]:
        """Configurations that were not tried, drawn at random; all that are left where they can be counted."""
        size = self.space.size
        candidates: Iterator[Point | None]
        if size is not None and size <= MAX_LISTED:
            listed = list(self.space.grid())
            random.Random(number).shuffle(listed)  # noqa: S311 (a search, and repeatable)
            candidates = iter(listed)
        else:
            candidates = (self.space.draw(number, number, again) for again in range(REDRAWS, 10 * REDRAWS))
        for point in candidates:
            if point is not None and not self.is_seen(point) and self.is_usable(point):
                yield Proposal(point, "draw", REDRAWS - 1)

    def accept(self, number: int, proposal: Proposal) -> None:
        """A trial runs with this configuration: it is not proposed again."""
        self.seen.add(identity(proposal.point))
        self.search.accept(number, proposal.point, -1 if proposal.origin == KNOWN else proposal.again)

    def is_seen(self, point: Point) -> bool:
        return identity(point) in self.seen

    def is_usable(self, point: Point) -> bool:
        """Whether it keeps to the constraints and the job's rules."""
        if not self.space.allows(point):
            return False
        problem = self.refuses(point)
        if problem is not None:
            self.refused.append(problem)
        return problem is None


def identity(point: Point) -> str:
    """A text that two points share where they are equal."""
    return json.dumps(point, sort_keys=True)


class Deaf:
    """What searches have in common whose proposals depend on nothing that trials come to."""

    def add(self, point: Point, values: list[float]) -> None:
        """Nothing that comes depends on it."""

    def accept(self, number: int, point: Point, again: int) -> None:
        """Nothing that comes depends on it."""

    def learn(self, number: int, values: list[float] | None, curve: list[tuple[int, float]], *, complete: bool) -> None:
        """Nothing that comes depends on it."""


class Draws(Deaf):
    """Random search."""

    origin = "draw"

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed

    def propose(self, number: int, again: int) -> Point | None:
        return self.space.draw(self.seed, number, again)


class Sequence(Deaf):
    """Proposals that come one after the other, whatever comes of them."""

    def __init__(self, points: Iterator[Point], origin: str) -> None:
        self.points, self.origin = points, origin
        self.asked = -1

    def propose(self, number: int, again: int) -> Point | None:
        self.asked = number
        return next(self.points, None)

    def accept(self, number: int, point: Point, again: int) -> None:
        if self.asked != number:
            for _ in range(again + 1):
                next(self.points, None)


def sobol(space: Space, seed: int) -> Iterator[Point]:
    """A scrambled Sobol sequence over the unit cube of all keys, searched or not. Endless."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(space.dimensions), scramble=True, rng=seed)
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its balance for powers of 2 is of no matter here
            shares = sequence.random(1)[0]
        yield space.at([min(float(share), 1 - 1e-12) for share in shares])


def search_of(config: dict[str, Any], space: Space, seed: int, goals: list[str]) -> Search:
    """The search that a section names.

    Args:
        config: the resolved `search` section.
        goals: max or min of each objective.
    """
    if config["kind"] == "random":
        return Draws(space, seed)
    if config["kind"] == "grid":
        return Sequence(space.grid(), "grid")
    if config["kind"] == "sobol":
        return Sequence(sobol(space, seed), "draw")
    from rayml.stages.tune.optuna_search import OptunaSearch

    return OptunaSearch(config, space, seed, goals)
