"""What a sweep found, as one document: its trials, their front, which keys mattered. `sweep.json`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rayml.plan.front import front, has_all, turned
from rayml.spec.space import Point, Space
from rayml.stages.tune.ledger import Sweep, Trial

FEWEST_FOR_IMPORTANCE = 5
TREES = 64


def sweep_document(
    sweep: Sweep, space: Space, settings: dict[str, Any], recipe: Callable[[Point], dict[str, Any]], ended: str
) -> dict[str, Any]:
    """The document.

    Args:
        recipe: `best` and `constant_lr` of a trial with these values.
        settings: objectives, scheduler, search, budget, epochs, val_rows: copied as they are.
        ended: why the sweep ended.
    """
    objectives = settings["objectives"]
    names = [each["metric"] for each in objectives]
    whole = [trial for trial in sweep.trials if trial.status == "done" and has_all(trial.values, names)]
    rows = [turned(trial.values, objectives) for trial in whole]
    return {
        **settings,
        "space": [dimension.to_json() for dimension in space.dimensions],
        "trials": [{**asdict(trial), **recipe(trial.point)} for trial in sweep.trials],
        "nodes": sweep.nodes,
        "spent": {**asdict(sweep.spent), "trials": len(sweep.trials)},
        "ended": ended,
        "front": [whole[place].number for place in front(rows)],
        "hypervolume": hypervolumes(sorted(whole, key=lambda trial: trial.ended or 0.0), objectives),
        "importance": importance(sweep, space, objectives[0]),
    }


def hypervolumes(trials: list[Trial], objectives: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The share of the box between the worst and the best of each objective that the front covers, trial after trial.

    Empty for one objective, or where all trials are alike in one.
    """
    if len(objectives) < 2 or len(trials) < 2:
        return []
    import moocore
    import numpy as np

    rows = np.array([turned(trial.values, objectives) for trial in trials])
    lows, highs = rows.min(axis=0), rows.max(axis=0)
    if not (highs > lows).all():
        return []
    shares = (rows - lows) / (highs - lows)
    reference = np.zeros(shares.shape[1])
    return [
        {"trial": trial.number, "value": float(moocore.hypervolume(shares[: place + 1], ref=reference, maximise=True))}
        for place, trial in enumerate(trials)
    ]


def importance(sweep: Sweep, space: Space, objective: dict[str, str]) -> dict[str, float]:
    """How much of the objective's variance each key explains (fANOVA; Hutter et al., ICML 2014), by Optuna.

    Of the keys that every trial has. Empty where there are too few trials, or all are alike.
    """
    found = [trial for trial in sweep.trials if has_all(trial.values, [objective["metric"]])]
    values = {trial.values[objective["metric"]] for trial in found}
    if len(found) < FEWEST_FOR_IMPORTANCE or len(values) < 2:
        return {}
    import optuna

    from rayml.stages.tune.optuna_search import OptunaSearch

    search = OptunaSearch({"kind": "tpe"}, space, 0, [objective["goal"]])
    for trial in found:
        search.add(trial.point, [trial.values[objective["metric"]]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=0)
        shares = optuna.importance.get_param_importances(search.study, evaluator=evaluator)
    return {path: float(share) for path, share in shares.items()}
