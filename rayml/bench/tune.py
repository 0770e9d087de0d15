"""`rayml bench tune`: what a sweep costs beside its trials, and how much less than random search it needs.

The first two rows time rayml's engine on trials that do nothing or sleep. The others count: trials look their learning
curves up in a table that was trained before (rayml.bench.curves), as with NAS-Bench and LCBench, so that ten seeds take
minutes and no noise of a machine is in what they need.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rayml.bench import autoscaled
from rayml.bench.curves import Table, TableSettings, make_table
from rayml.bench.fronts import SHAPES, KnownFront
from rayml.bench.harness import Contest, Goal, Lap, Row, Side, compete
from rayml.bench.machine import Tree, Watch
from rayml.bench.plain_tuner import bare_calls_per_s, run_plain_tuner
from rayml.bench.sweeps import (
    Lookup,
    SweepSettings,
    draws,
    list_schedule,
    ray_here,
    run_sleepers,
    run_sweep_here,
    same_lengths,
)
from rayml.plan.plan import ClusterPlan
from rayml.spec.space import Point, build_space
from rayml.spec.tune import TpeSearch, TuneSpec
from rayml.stages.tune.ledger import Sweep

SLOTS = 2
NO_OP, MAKESPAN, ASHA, TPE = "no-op trials", "makespan", "asha epochs", "tpe trials"
PARETO, DIGITS_FRONT = "pareto hypervolume", "pareto hypervolume, digits"
OF_THE_TABLE = (ASHA, TPE, DIGITS_FRONT)
RANDOM_TRIALS = 64
"""Of the random search whose result is to be reached."""
MOST_TRIALS = 128
"""Where TPE gives up; it counts as if it had got there."""
GRID_SHARE = 0.3
"""Of the exhaustive grid's trials, those that the search for its front may use."""
MARGIN = 0.1
"""How far the hypervolume's reference lies behind the front's worst points, as a share of the front's extent."""
OBJECTIVE = "val/loss"
LR, HIDDEN, DROPOUT, BATCH_SIZE = "train.optimizer.lr", "model.hidden", "model.dropout", "train.batch_size"


@dataclass(frozen=True)
class Size:
    """How much a mode measures."""

    no_op_trials: int
    plain_no_op_trials: int
    """The Tuner starts a process for each, so that its trials per second do not depend on how many there are."""
    sleeping_trials: int
    seeds: int
    epochs: int
    batch_sizes: tuple[int, ...]

    def space(self) -> dict[str, list[Any]]:
        """Of the table."""
        return {
            LR: [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1],
            HIDDEN: [[8], [16], [32], [64], [128]],
            DROPOUT: [0.0, 0.2, 0.4],
            BATCH_SIZE: list(self.batch_sizes),
        }


SIZES = {
    "quick": Size(no_op_trials=100, plain_no_op_trials=10, sleeping_trials=0, seeds=3, epochs=9, batch_sizes=(32, 64)),
    "full": Size(
        no_op_trials=300, plain_no_op_trials=40, sleeping_trials=24, seeds=10, epochs=27, batch_sizes=(16, 32, 64)
    ),
}
NAMES = {
    "quick": (NO_OP, ASHA, TPE, PARETO),
    "full": (NO_OP, MAKESPAN, ASHA, TPE, PARETO, DIGITS_FRONT, autoscaled.NAME),
}


def names(mode: str) -> Sequence[str]:
    """The rows of a mode."""
    return NAMES[mode]


def run(mode: str, say: Callable[[str], None], wanted: Collection[str]) -> list[Row]:
    """Measure the rows that are wanted: all but the last on a Ray of two CPUs that is started once."""
    with TemporaryDirectory(prefix="rayml-bench-") as name:
        folder = Path(name)
        bench = Bench(folder, SIZES[mode], say)
        here = [row for row in names(mode) if row in wanted and row != autoscaled.NAME]
        if any(row in OF_THE_TABLE for row in here):
            say(f"the table has {len(bench.table.curves)} configurations")
        rows = []
        if here:
            with ray_here(folder / "runs" / "bench", ClusterPlan(cpus=SLOTS, gpus=0, object_store=2**28)):
                rows = [bench.measure(row) for row in here]
        if autoscaled.NAME in wanted:
            rows.append(autoscaled.measure(folder / "autoscaled", say))
        return rows


class Bench:
    """The rows, and what they share."""

    def __init__(self, folder: Path, size: Size, say: Callable[[str], None]) -> None:
        self.folder, self.size, self.say = folder, size, say
        self.sweeps = itertools.count()

    @cached_property
    def table(self) -> Table:
        """The curves, trained once for all rows."""
        return make_table(
            TableSettings(folder=self.folder / "curves", epochs=self.size.epochs, space=self.size.space())
        )

    def measure(self, name: str) -> Row:
        """One row."""
        contests = {
            NO_OP: self.no_op,
            MAKESPAN: self.makespan,
            ASHA: self.asha,
            TPE: self.tpe,
            PARETO: self.known_front,
            DIGITS_FRONT: self.digits_front,
        }
        pairs = self.size.seeds if name in (*OF_THE_TABLE, PARETO) else 1
        return compete(contests[name](), pairs, warm_up=0, say=self.say)

    def new_folder(self) -> Path:
        """For one sweep."""
        return self.folder / f"sweep-{next(self.sweeps)}"

    def no_op(self) -> Contest:
        """Trials per second of a sweep in which nothing is trained."""
        mine, other = self.size.no_op_trials, self.size.plain_no_op_trials
        return Contest(
            name=NO_OP,
            unit="trials/s",
            better="more",
            ours=timed(lambda: mine - len(self.sleep([0.0] * mine)), lambda seconds: mine / seconds),
            alternative=timed(lambda: other - len(self.sleep_plainly([0.0] * other)), lambda seconds: other / seconds),
            alternative_is=f"Ray Tune's Tuner as it comes, {other} trials; ours {mine}",
            check=none_missing,
            goal=Goal(25.0, "ours_at_least"),
            limit=bare_calls_per_s(SLOTS),
            limit_is=f"calls of {SLOTS} Ray actors, one at a time each",
        )

    def sleep(self, lengths_s: Sequence[float]) -> list[float]:
        """A sweep of trials of these lengths; those that were done."""
        return run_sleepers(self.new_folder(), lengths_s, SLOTS)[0]

    def sleep_plainly(self, lengths_s: Sequence[float]) -> list[float]:
        """The same by Ray Tune as it comes."""
        return run_plain_tuner(self.new_folder(), lengths_s)

    def makespan(self) -> Contest:
        """How much longer a sweep takes than its trials would if no slot were ever without one."""
        draw = random.Random(7)  # noqa: S311 (lengths of naps, and repeatable)
        lengths_s = [round(draw.uniform(2.0, 8.0), 2) for _ in range(self.size.sleeping_trials)]
        ideal_s = list_schedule(lengths_s, SLOTS)
        return Contest(
            name=MAKESPAN,
            unit="%",
            better="less",
            ours=timed(lambda: self.sleep(lengths_s), lambda seconds: 100 * seconds / ideal_s),
            alternative=timed(lambda: self.sleep_plainly(lengths_s), lambda seconds: 100 * seconds / ideal_s),
            alternative_is=f"Ray Tune's Tuner as it comes, both of {ideal_s:.1f} s in which {SLOTS} slots can do them",
            check=same_lengths,
            goal=Goal(105.0, "ours"),
        )

    def asha(self) -> Contest:
        """Epochs of ASHA until one is as good as all of random search's, by the latter's epochs."""
        most = RANDOM_TRIALS * self.size.epochs
        scheduler = {"kind": "asha"}
        section = {**self.section(), "search": {"kind": "random"}, "scheduler": scheduler}

        def ours(seed: int) -> Lap:
            target = self.best_of(self.random_search(seed))

            def enough(sweep: Sweep) -> bool:
                return epochs_until(sweep, target) is not None or epochs_of(sweep) >= most

            settings = SweepSettings(section, seed, self.size.epochs)
            sweep = run_sweep_here(self.new_folder(), settings, Lookup(self.table, tells_epochs=True), enough)
            return Lap(100 * (epochs_until(sweep, target) or most) / most, proof=points_of(sweep))

        return self.against_random(ASHA, ours, f"{most:,} epochs", Goal(25.0, "ours"))

    def tpe(self) -> Contest:
        """Trials of TPE until one is as good as all of random search's, by the number of the latter."""
        section = {**self.section(MOST_TRIALS), "search": {"kind": "tpe"}}
        drawn = TpeSearch(kind="tpe").startup

        def ours(seed: int) -> Lap:
            target = self.best_of(self.random_search(seed))

            def enough(sweep: Sweep) -> bool:
                return trials_until(sweep, target) is not None

            settings = SweepSettings(section, seed, self.size.epochs)
            sweep = run_sweep_here(self.new_folder(), settings, Lookup(self.table, tells_epochs=False), enough)
            trials = trials_until(sweep, target) or MOST_TRIALS
            return Lap(100 * trials / RANDOM_TRIALS, proof=points_of(sweep)[:drawn])

        return self.against_random(TPE, ours, f"{RANDOM_TRIALS} trials", Goal(70.0, "ours"))

    def against_random(self, name: str, ours: Callable[[int], Lap], size: str, goal: Goal) -> Contest:
        """A search in pairs with random search of the same seed. Both are shares of all that the latter is given."""
        return Contest(
            name=name,
            unit="%",
            better="less",
            ours=by_seed(ours),
            alternative=by_seed(self.random_lap),
            alternative_is=f"random search with every trial to its end until it came to its best of {size}",
            check=same_points,
            goal=goal,
        )

    def known_front(self) -> Contest:
        """The share of a known front that the automatic search finds with a part of the exhaustive search's trials."""
        problems = [KnownFront(name) for name in SHAPES]
        trials = int(GRID_SHARE * len(problems[0].every()))
        objectives = [{"metric": OBJECTIVE}, {"metric": "size_bytes"}]

        def ours(seed: int) -> Lap:
            problem = problems[seed % len(problems)]
            section = {"space": problem.space(), "objectives": objectives, "budget": {"trials": trials}}
            sweep = run_sweep_here(self.new_folder(), SweepSettings(section, seed), problem)
            found = [problem.pair(point) for point in points_of(sweep)]
            return Lap(100 * share_of_hypervolume(found, problem.every()))

        every = f"exhaustive search of {', '.join(SHAPES)}: 300 trials each; ours has {trials}"
        return front_contest(PARETO, ours, every)

    def digits_front(self) -> Contest:
        """The share of the exhaustive grid's front that the automatic search finds with a part of its trials."""
        points = TableSettings(folder=self.folder, epochs=self.size.epochs, space=self.size.space()).points()
        every = [self.pair(point) for point in points]
        trials = int(GRID_SHARE * len(points))
        section = {**self.section(trials), "objectives": [{"metric": OBJECTIVE}, {"metric": "size_bytes"}]}

        def ours(seed: int) -> Lap:
            settings = SweepSettings(section, seed, self.size.epochs)
            sweep = run_sweep_here(self.new_folder(), settings, Lookup(self.table, tells_epochs=False))
            return Lap(100 * share_of_hypervolume([self.pair(point) for point in points_of(sweep)], every))

        return front_contest(DIGITS_FRONT, ours, f"the exhaustive grid of {len(points)} trials; ours has {trials}")

    def section(self, trials: int | None = None) -> dict[str, Any]:
        """A `tune` section on the table; without `trials` it may try everything."""
        space = {path: {"choice": values} for path, values in self.size.space().items()}
        budget = {"trials": trials} if trials is not None else {"wall": "1h"}
        return {"space": space, "objectives": [{"metric": OBJECTIVE}], "budget": budget}

    def random_search(self, seed: int) -> list[Point]:
        """The configurations of the random search of a seed: those of its sweep, which nothing that happens changes."""
        space = build_space(TuneSpec.model_validate(self.section()), {})
        return draws(space, seed, RANDOM_TRIALS)

    def random_lap(self, seed: int) -> Lap:
        """Where among its trials random search comes to its best one."""
        points = self.random_search(seed)
        losses = [self.table.values(point)[OBJECTIVE] for point in points]
        return Lap(100 * (1 + losses.index(min(losses))) / len(points), proof=points)

    def best_of(self, points: Sequence[Point]) -> float:
        """The lowest loss of trials that are trained to their end."""
        return min(self.table.values(point)[OBJECTIVE] for point in points)

    def pair(self, point: Point) -> tuple[float, float]:
        """Loss and size."""
        values = self.table.values(point)
        return values[OBJECTIVE], values["size_bytes"]


def front_contest(name: str, ours: Callable[[int], Lap], alternative_is: str) -> Contest:
    """The share of a whole front's hypervolume, which an exhaustive search has by definition."""
    return Contest(
        name=name,
        unit="%",
        better="more",
        ours=by_seed(ours),
        alternative=lambda: Lap(100.0),
        alternative_is=alternative_is,
        goal=Goal(95.0, "ours_at_least"),
    )


def timed(work: Callable[[], Any], value: Callable[[float], float]) -> Side:
    """A side whose lap is work on the Ray of this process; Ray's processes are counted with it."""

    def lap() -> Lap:
        tree = Tree(os.getpid())
        before = tree.look()
        with Watch(tree):
            started = time.perf_counter()
            proof = work()
            seconds = time.perf_counter() - started
        return Lap(value(seconds), tree.look() - before, proof)

    return lap


def by_seed(lap: Callable[[int], Lap]) -> Side:
    """A side whose laps have the seeds 0, 1, 2, ..."""
    seeds = itertools.count()
    return lambda: lap(next(seeds))


def none_missing(ours: int, alternative: int) -> str | None:
    """Both did all of their trials."""
    return f"{ours} trials were not done, and {alternative} of the alternative" if ours or alternative else None


def same_points(ours: Sequence[Point], alternative: Sequence[Point]) -> str | None:
    """Both tried the same configurations in the same order, as far as both went."""
    for number, (mine, other) in enumerate(zip(ours, alternative, strict=False)):
        if mine != other:
            return f"trial {number} is {mine}, and {other} of random search"
    return None


def points_of(sweep: Sweep) -> list[Point]:
    """What a sweep tried, in its order."""
    return [trial.point for trial in sweep.trials]


def epochs_of(sweep: Sweep) -> int:
    """Epochs that were trained."""
    return sum(len(trial.epochs) for trial in sweep.trials)


def epochs_until(sweep: Sweep, target: float) -> int | None:
    """Epochs of all trials until one had this loss; None where none had."""
    records = sorted((record for trial in sweep.trials for record in trial.epochs), key=lambda record: record["t"])
    return next((place for place, record in enumerate(records, 1) if record[OBJECTIVE] <= target), None)


def trials_until(sweep: Sweep, target: float) -> int | None:
    """Trials that had ended when one had this loss; None where none had."""
    ended = [sweep.trials[number] for kind, number in sweep.order if kind == "ended"]
    return next(
        (place for place, trial in enumerate(ended, 1) if trial.values.get(OBJECTIVE, target + 1) <= target), None
    )


def share_of_hypervolume(found: Sequence[tuple[float, float]], every: Sequence[tuple[float, float]]) -> float:
    """The hypervolume of what was found by that of everything; both objectives are to be small.

    The reference lies a tenth of the front's extent behind its worst points: what is far from the front counts nothing.
    """
    import moocore
    import numpy as np

    front = moocore.filter_dominated(np.array(every))
    low, high = front.min(axis=0), front.max(axis=0)
    reference = high + MARGIN * (high - low)
    return float(moocore.hypervolume(np.array(found), ref=reference) / moocore.hypervolume(front, ref=reference))
