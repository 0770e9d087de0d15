"""What a sweep would try first, without running it: its draws are a pure function of the seed."""

from __future__ import annotations

import itertools

from rayml.plan.plan import Plan
from rayml.spec.job import JobSpec
from rayml.spec.space import Point, space_of

SHOWN = 3
DRAWN = ("random", "tpe", "gp", "cma_es")
"""Searches that begin with draws of rayml's own; what the others try first is in their libraries."""


def preview(plan: Plan) -> tuple[int | None, list[Point]]:
    """How many configurations the space has (None: not countable), and the first that are tried."""
    assert plan.origin is not None, "every plan has an origin"
    job = JobSpec.model_validate(plan.origin.job)
    assert job.tune is not None, "the caller looked"
    space = space_of(job)
    search = plan.step("tune").config["search"]
    known = [dict(point) for point in job.tune.known]
    if search["kind"] == "grid":
        return space.size, [*known, *itertools.islice(space.grid(), SHOWN)][:SHOWN]
    numbers = range(len(known), min(SHOWN, len(known) + search.get("startup", SHOWN)))
    drawn = [space.draw(job.seed, number) for number in numbers] if search["kind"] in DRAWN else []
    return space.size, [*known, *(point for point in drawn if point is not None)][:SHOWN]
