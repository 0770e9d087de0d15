"""What is wrong with a `tune` section: found before anything runs, each with the key that it is about."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from rayml.errors import Problem
from rayml.spec.expression import Expression, parse_expression
from rayml.spec.job import JobSpec
from rayml.spec.point import base_values, is_key, job_document, known_keys, put_values, value_at
from rayml.spec.problems import problems_of
from rayml.spec.space import Dimension, Point, Space, ordered, space_of
from rayml.spec.tree import Node
from rayml.spec.tune import COMPRESS_METRICS, EPOCH_METRICS, CmaEsSearch, GridSearch, Pb2, Pbt, RangeSpec, TuneSpec
from rayml.spec.words import count, listed, nearest, show

At = tuple[str, ...]
Found = tuple[At, str]
"""Where in the file, and a sentence."""

SEARCHABLE = ("data", "model", "train", "compress")
"""Sections that a trial runs; what comes after them is the same for every trial."""
NOT_SEARCHED = {
    "data.source": "trials are compared on the same rows",
    "data.split": "trials are compared on the same rows",
    "data.label": "trials are compared on the same rows",
    "compress.budget": "it picks from what a trial made; write tune.limits",
    "compress.prefer": "it picks from what a trial made; write tune.choose",
    "train.start": "what it names is looked at once, before the sweep; write a job for each start",
    "train.strategy.config": "the file is read once, before the sweep; write its values as keys",
    "train.launcher": "a trial's workers stand on one node, whoever starts them",
    "train.retries": "it changes nothing of what is learned",
    "train.profile": "it changes nothing of what is learned",
    "train.checkpoint": "it changes nothing of what is learned",
}
"""Keys that a sweep cannot compare, and why."""
PROBES = 20
MAX_GRID = 100_000
MAX_DATA = 32
"""Data steps that a sweep makes before its first trial, one for each combination of the keys of data."""
"""Whole configurations that are drawn and checked."""


def sweep_problems(job: JobSpec) -> list[Found]:
    """Every fault of the section and of what it searches. Empty where it holds together, or there is none."""
    tune = job.tune
    if tune is None:
        return []
    found = [*path_problems(tune), *when_problems(tune), *objective_problems(job, tune), *scheduler_problems(job, tune)]
    expressions, more = constraint_problems(job, tune)
    found += more
    if found:
        return found
    space = space_of(job)
    found += [*value_problems(job, space), *search_problems(tune, space), *known_problems(tune, space)]
    return found or draw_problems(job, tune, space, len(expressions))


def path_problems(tune: TuneSpec) -> Iterator[Found]:
    """Keys that no job has, or that a sweep cannot change."""
    for path in tune.space:
        at = ("tune", "space", path)
        if not is_key(path):
            near = nearest(path, known_keys(), likeness=0.75)
            yield at, f"no such key of a job{f'; did you mean `{near}`?' if near else '; see `rayml schema`'}"
        elif path.partition(".")[0] not in SEARCHABLE:
            yield at, f"a trial runs {listed(SEARCHABLE, 'and')}, and this key changes none of it"
        elif path in EXAMPLES:
            yield at, f"{path} as a whole is not searched; write its keys, such as `{path}.{EXAMPLES[path]}`"
        elif fixed := not_searched(path, tune.space[path]):
            yield at, f"`{fixed}` is not searched: {NOT_SEARCHED[fixed]}"
        elif any(other != path and path.startswith(f"{other}.") for other in tune.space):
            around = next(other for other in tune.space if other != path and path.startswith(f"{other}."))
            yield at, f"`{around}` is searched as a whole; write one of the two"


EXAMPLES = {"data": "normalize", "train": "batch_size", "compress": "ladder.0.structured"}


def not_searched(path: str, written: RangeSpec) -> str | None:
    """The fixed key that a key is, lies in, or sets in one of its sections."""
    for fixed in NOT_SEARCHED:
        if path == fixed or path.startswith(f"{fixed}."):
            return fixed
        if fixed.startswith(f"{path}.") and any(
            value_at(value, fixed.removeprefix(f"{path}."))[1] for value in written.choice or written.grid or ()
        ):
            return fixed
    return None


def changes_in_training(path: str) -> bool:
    """Whether a population may change a key between two epochs: numbers that are built into no model and no order."""
    numbers = path.startswith(("train.optimizer.", "train.clip.")) or path == "train.l1"
    return numbers and not path.endswith((".kind", ".no_decay", ".lr_by", ".layer_decay", ".not_on"))


def when_problems(tune: TuneSpec) -> Iterator[Found]:
    """Conditions on keys that are not searched, on values that they never have, or in a circle."""
    for path, written in tune.space.items():
        for other, value in written.when.items():
            at = ("tune", "space", path, "when", other)
            if other not in tune.space:
                near = nearest(other, tune.space)
                meant = f"; did you mean `{near}`?" if near else f"; it can name {listed(list(tune.space))}"
                yield at, f"not a key of this space{meant}"
                continue
            choices = tune.space[other].choice or tune.space[other].grid
            values = value if isinstance(value, list) else [value]
            odd = [each for each in values if choices is not None and each not in choices]
            if odd:
                yield at, f"{show(odd[0])} is not a value of `{other}`; it has {listed(list(choices or ()))}"
    try:
        if all(other in tune.space for written in tune.space.values() for other in written.when):
            ordered(tune)
    except ValueError as error:
        yield ("tune", "space"), str(error)


def objective_problems(job: JobSpec, tune: TuneSpec) -> Iterator[Found]:
    """Objectives that are written twice, or that no step of the job measures."""
    names = [objective.metric for objective in tune.objectives]
    for place, name in enumerate(names):
        if name in names[:place]:
            yield ("tune", "objectives", str(place), "metric"), f"`{name}` is an objective already; leave this one out"
        if name in COMPRESS_METRICS and job.compress is None:
            yield ("tune", "objectives", str(place), "metric"), "needs a `compress` section, and the file has none"


def scheduler_problems(job: JobSpec, tune: TuneSpec) -> Iterator[Found]:
    """Schedulers that have nothing to judge by, or no time for it."""
    scheduler = tune.scheduler
    epochs = None if job.train is None or "train.epochs" in tune.space else job.train.epochs
    if scheduler.kind != "fifo" and tune.objectives[0].metric not in EPOCH_METRICS:
        what = f"is known when a trial is done, and {scheduler.kind} judges after every epoch"
        yield ("tune", "objectives", "0", "metric"), f"{what}; write {listed(EPOCH_METRICS)} first, or scheduler fifo"
    grace = getattr(scheduler, "grace", None)
    if isinstance(grace, int) and epochs is not None and grace >= epochs:
        what = f"{count(grace, 'epoch')} of grace, and a trial has {epochs}, so that none is stopped"
        fits = f"write at most {epochs - 1}, or more train.epochs" if epochs > 1 else "write more train.epochs, or fifo"
        yield ("tune", "scheduler", "grace"), f"{what}; {fits}"
    if isinstance(scheduler, Pbt | Pb2):
        if not any(map(changes_in_training, tune.space)):
            what = f"{scheduler.kind} changes numbers of the optimizer while a trial trains, and none is searched"
            yield ("tune", "scheduler", "kind"), f"{what}; add `train.optimizer.lr`, or write asha"
        if tune.budget.trials == "auto":
            what = f"{scheduler.kind} needs to know how large its population is"
            yield ("tune", "budget"), f"{what}; write trials: 8"
        if any(written.when for written in tune.space.values()):
            what = f"{scheduler.kind} changes every number of a trial, so none can depend on another key"
            yield ("tune", "scheduler", "kind"), f"{what}; leave `when` out, or write asha"


def constraint_problems(job: JobSpec, tune: TuneSpec) -> tuple[list[Expression], list[Found]]:
    """Constraints that cannot be read, or speak of keys that no job has."""
    parsed: list[Expression] = []
    found: list[Found] = []
    known = {*base_values(job), *tune.space}
    for place, text in enumerate(tune.constraints):
        at = ("tune", "constraints", str(place))
        try:
            expression = parse_expression(text)
        except ValueError as error:
            found.append((at, str(error)))
            continue
        odd = [name for name in expression.names if name not in known and not is_key(name)]
        if odd:
            near = nearest(odd[0], known)
            meant = f"; did you mean `{near}`?" if near else ""
            found.append((at, f"`{odd[0]}` is not a key of the job{meant} (text stands in quotes)"))
        elif not any(name in tune.space for name in expression.names):
            found.append((at, f"names no key of the space; it has {listed(list(tune.space))}"))
        parsed.append(expression)
    return parsed, found


def value_problems(job: JobSpec, space: Space) -> Iterator[Found]:
    """Values that the job's own rules refuse: every one of a choice, both ends of a range."""
    document = job_document(job)
    for dimension in space.dimensions:
        told = set()
        for value in ends(dimension):
            for what in refusals(document, {**needed(dimension, space), dimension.path: value}, dimension.path):
                if what not in told:
                    told.add(what)
                    yield ("tune", "space", dimension.path), what


def ends(dimension: Dimension) -> list[Any]:
    """The values that stand for all others."""
    return list(dimension.values) if dimension.kind == "choice" else [dimension.at(0.0), dimension.at(1 - 1e-12)]


def needed(dimension: Dimension, space: Space) -> Point:
    """Values of the keys that a key depends on, with which it is searched."""
    known = {each.path: each for each in space.dimensions}
    point: Point = {}
    for path, values in dimension.when:
        point = {**point, **needed(known[path], space), path: values[0]}
    return point


def refusals(document: dict[str, Any], point: Point, path: str) -> list[str]:
    """Why the job with these values would be refused, as sentences about one of its keys."""
    try:
        changed = put_values(document, point)
        changed.pop("tune", None)
        JobSpec.model_validate(changed)
    except ValidationError as error:
        problems = problems_of(error, JobSpec, as_tree(changed))
        return [sentence(problem, path) for problem in problems]
    except ValueError as error:
        return [str(error)]
    return []


def sentence(problem: Problem, path: str) -> str:
    """A problem as it is said beside a key of the space."""
    return problem.what if problem.path == path else f"{problem.path}: {problem.what}"


def as_tree(value: Any) -> Node:
    """A document as a tree without lines, for the words of its problems."""
    if isinstance(value, dict):
        return Node({key: as_tree(inner) for key, inner in value.items()}, "tune", None)
    if isinstance(value, list | tuple):
        return Node([as_tree(inner) for inner in value], "tune", None)
    return Node(value, "tune", None)


def search_problems(tune: TuneSpec, space: Space) -> Iterator[Found]:
    """Searches that cannot search this space."""
    yield from data_problems(space)
    if isinstance(tune.search, GridSearch):
        if all(dimension.levels is not None for dimension in space.dimensions) and bound(space.dimensions) > MAX_GRID:
            what = f"up to {bound(space.dimensions):,} combinations"
            yield ("tune", "search", "kind"), f"{what}, and a grid takes {MAX_GRID:,}; write random, or larger steps"
        for dimension in space.dimensions:
            if dimension.levels is None:
                what = "has no end of values, and a grid tries each"
                yield ("tune", "space", dimension.path), f"{what}; write `grid: [...]`, or a `step`"
    if isinstance(tune.search, CmaEsSearch):
        if len(tune.objectives) > 1:
            yield ("tune", "search", "kind"), "cma_es takes one objective; write tpe or nsga2 for several"
        if all(dimension.kind == "choice" for dimension in space.dimensions):
            yield ("tune", "search", "kind"), "cma_es needs a key that is a number; write tpe"


def bound(dimensions: Sequence[Dimension]) -> int:
    """Combinations of keys that can be counted, conditions aside."""
    return math.prod(len(dimension.levels or ()) for dimension in dimensions)


def data_problems(space: Space) -> Iterator[Found]:
    """Keys of data that would need more data steps than are made before the first trial."""
    searched = [dimension for dimension in space.dimensions if dimension.path.startswith("data.")]
    for dimension in searched:
        at = ("tune", "space", dimension.path)
        if dimension.levels is None:
            yield at, "each value is a data step of its own, made before the first trial; write `choice: [...]`"
        elif dimension.when:
            yield at, "data steps are made before the first trial, when no other key has a value; leave `when` out"
    if all(dimension.levels is not None for dimension in searched) and bound(searched) > MAX_DATA:
        what = f"{bound(searched):,} data steps, and a sweep makes at most {MAX_DATA} before its first trial"
        yield ("tune", "space", searched[0].path), f"{what}; write fewer values"


def known_problems(tune: TuneSpec, space: Space) -> Iterator[Found]:
    """Known points that are not of this space."""
    dimensions = {dimension.path: dimension for dimension in space.dimensions}
    for place, point in enumerate(tune.known):
        for path, value in point.items():
            at = ("tune", "known", str(place), path)
            if path not in dimensions:
                near = nearest(path, dimensions)
                meant = f"; did you mean `{near}`?" if near else f"; it has {listed(list(dimensions))}"
                yield at, f"not a key of the space{meant}"
            elif not dimensions[path].holds(value):
                yield at, f"{show(value)} is not in the range of `{path}`"
            elif not all(
                path_ in point and any(point[path_] == each for each in values)
                for path_, values in dimensions[path].when
            ):
                others = listed([other for other, _ in dimensions[path].when], "and")
                yield at, f"is searched only with certain values of {others}; write them here too"


def draw_problems(job: JobSpec, tune: TuneSpec, space: Space, constraints: int) -> list[Found]:
    """Constraints that nothing meets, and configurations that the job's rules refuse, however they are drawn."""
    from rayml.spec.check import check_job

    document, refused = job_document(job), []
    for number in range(PROBES):
        try:
            point = space.draw(job.seed, number)
        except ValueError as error:
            return [(("tune", "constraints"), str(error))]
        if point is None and space.size is not None:
            point = next(space.grid(), None)
        if point is None:
            some = "no configuration that was drawn" if space.size is None else "no configuration of the space"
            which = "it" if constraints == 1 else "all of them"
            return [(("tune", "constraints"), f"{some} keeps to {which}; check the comparisons and the ranges")]
        problem = first_refusal(document, point, check_job)
        if problem is None:
            return []
        refused.append(problem)
    return [(("tune", "space"), f"every configuration is refused; the first one: {refused[0]}")]


def first_refusal(document: dict[str, Any], point: Point, check: Any) -> str | None:
    """The first problem of the job that a configuration makes; None where it is a job."""
    try:
        changed = put_values(document, point)
        changed.pop("tune", None)
        job = JobSpec.model_validate(changed)
    except ValidationError as error:
        problem = problems_of(error, JobSpec, as_tree(changed))[0]
        return f"{problem.path}: {problem.what}"
    except ValueError as error:
        return str(error)
    misfit = next(iter(check(job)), None)
    return None if misfit is None else f"{misfit[0]}: {misfit[1]}"
