"""Model-based search by Optuna. Its study is in memory and is made again from the ledger; no pickle is read.

TPE and GP look at finished trials only, so each proposal comes from a sampler that is seeded by the trial's number: it
is the same before and after a crash. CMA-ES and NSGA keep generations in the study; for them every earlier proposal is
made again, in the ledger's order.
"""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from rayml.spec.space import Dimension, Point, Space

optuna.logging.set_verbosity(optuna.logging.ERROR)
WITH_GENERATIONS = ("cma_es", "nsga2", "nsga3")
CANDIDATES = 24
"""Of so many draws TPE takes the one that it expects most of; Optuna's own number."""
FEWER = 2
"""Candidates less at each further draw for a trial."""


class OptunaSearch:
    """One study."""

    origin = "search"

    def __init__(self, config: dict[str, Any], space: Space, seed: int, goals: list[str]) -> None:
        self.config, self.space, self.seed = config, space, seed
        directions = [StudyDirection.MAXIMIZE if goal == "max" else StudyDirection.MINIMIZE for goal in goals]
        self.has_generations = config["kind"] in WITH_GENERATIONS
        self.storage = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(directions=directions, sampler=self.sampler(seed), storage=self.storage)
        self.distributions = {each.path: distribution(each) for each in space.dimensions}
        self.asked: tuple[int, optuna.Trial] | None = None
        """The trial that the last proposal came from; told as failed where nobody took it."""
        self.trials: dict[int, int] = {}
        """Our number to Optuna's."""

    def propose(self, number: int, again: int) -> Point | None:
        if number < self.config.get("startup", 0):
            return self.space.draw(self.seed, number, again)
        self.drop_asked()
        if not self.has_generations:
            self.study.sampler = self.sampler(hash((self.seed, number, again)) % 2**31, again)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self.study.ask()
            point = self.suggest(trial)
        self.asked = (number, trial)
        return point

    def suggest(self, trial: optuna.Trial) -> Point:
        """The values of the keys that are searched beside each other."""
        point: Point = {}
        for dimension in self.space.dimensions:
            if dimension.is_active(point):
                point[dimension.path] = suggest_value(trial, dimension)
        return point

    def accept(self, number: int, point: Point, again: int) -> None:
        if self.has_generations and (self.asked is None or self.asked[0] != number):
            for place in range(again + 1):
                self.propose(number, place)
        if self.asked is not None and self.asked[0] == number and self.suggest(self.asked[1]) == point:
            self.trials[number] = self.asked[1].number
            self.asked = None
            return
        self.drop_asked()
        self.trials[number] = len(self.study.trials)
        self.study.add_trial(self.frozen(point, TrialState.RUNNING))

    def learn(self, number: int, values: list[float] | None, curve: list[tuple[int, float]], *, complete: bool) -> None:
        trial = self.trials[number]
        if complete and values is not None:
            self.study.tell(trial, values)
        elif curve and len(self.study.directions) == 1:
            # TPE ranks what was stopped by how far it came, and what it had there.
            study = self.storage.get_study_id_from_name(self.study.study_name)
            place = self.storage.get_trial_id_from_study_id_trial_number(study, trial)
            for epoch, value in curve:
                self.storage.set_trial_intermediate_value(place, epoch, value)
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def add(self, point: Point, values: list[float]) -> None:
        """Learn from a trial of an earlier sweep."""
        self.study.add_trial(self.frozen(point, TrialState.COMPLETE, values))

    def frozen(self, point: Point, state: TrialState, values: list[float] | None = None) -> optuna.trial.FrozenTrial:
        return create_trial(
            state=state,
            values=values,
            params={path: self.written(path, value) for path, value in point.items()},
            distributions={path: self.distributions[path] for path in point},
        )

    def written(self, path: str, value: Any) -> Any:
        """A value as Optuna has it: the place of a choice, which may be a whole section."""
        dimension = next(each for each in self.space.dimensions if each.path == path)
        return listed(dimension).index(value) if dimension.kind == "choice" else value

    def drop_asked(self) -> None:
        """Close a proposal that was of no use."""
        if self.asked is not None:
            self.study.tell(self.asked[1], state=TrialState.FAIL)
            self.asked = None

    def sampler(self, seed: int, again: int = 0) -> BaseSampler:
        """A new sampler of the section's kind. Startup draws are ours, and are done when it is asked.

        In a space that can be counted, the best of many candidates is soon one that was tried, and the same one at
        the next draw. So where proposals were of no use, TPE chooses among fewer, and at last takes what it draws.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = self.config["kind"]
            if kind == "tpe":
                several = len(self.space.dimensions) > 1
                return optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=1,
                    n_ei_candidates=max(1, CANDIDATES - FEWER * again),
                    multivariate=several,
                    group=several,
                    constant_liar=True,
                )
            if kind == "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=1, deterministic_objective=False)
            if kind == "cma_es":
                return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
            population = self.config["population"]
            if kind == "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)
            return optuna.samplers.NSGAIIISampler(seed=seed, population_size=population)


def is_ordered(dimension: Dimension) -> bool:
    """Whether a choice is between numbers: what is near a good one is worth more than what is far from it."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in dimension.values)


def listed(dimension: Dimension) -> tuple[Any, ...]:
    """The values of a choice, numbers from the smallest to the largest. Optuna knows them by their place."""
    return tuple(sorted(dimension.values)) if is_ordered(dimension) else dimension.values


def distribution(dimension: Dimension) -> BaseDistribution:
    """A key's range as Optuna's."""
    if dimension.kind == "choice":
        places = len(dimension.values)
        return (
            IntDistribution(0, places - 1) if is_ordered(dimension) else CategoricalDistribution(tuple(range(places)))
        )
    if dimension.is_integer:
        return IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.is_log, step=int(dimension.step or 1)
        )
    return FloatDistribution(dimension.low, dimension.high, log=dimension.is_log, step=dimension.step)


def suggest_value(trial: optuna.Trial, dimension: Dimension) -> Any:
    """What Optuna proposes for a key."""
    path, low, high = dimension.path, dimension.low, dimension.high
    if dimension.kind == "choice":
        values = listed(dimension)
        if is_ordered(dimension):
            return values[trial.suggest_int(path, 0, len(values) - 1)]
        return values[trial.suggest_categorical(path, range(len(values)))]
    if dimension.is_integer:
        return trial.suggest_int(path, int(low), int(high), log=dimension.is_log, step=int(dimension.step or 1))
    return trial.suggest_float(path, low, high, log=dimension.is_log, step=dimension.step)
