"""The job file of a run, and of one trial of its sweep, so that anybody can run it again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import yaml

from rayml.artifacts.store import LocalStore
from rayml.errors import PlanError
from rayml.observe.runs import Home, RunFolder
from rayml.plan.settle import read_sweep
from rayml.spec.point import put_values
from rayml.spec.words import count
from rayml.stages.tune.ledger import LEDGER_FILE, read_ledger

Notes = list[str]
"""Lines that stand above the job as comments."""


def job_of(home: Home, name: str, trial: int | None) -> tuple[dict[str, Any], Notes]:
    """The document of a run's job; that of a trial has its values in it and no sweep.

    Raises:
        PlanError: the run has no such trial.
    """
    run = home.find_run(name)
    origin = run.plan().origin
    if origin is None:
        raise PlanError("an older rayml planned this run, without its job", where=run.id, hint="run its job file again")
    if trial is None:
        return origin.job, [f"the job of run {run.id}"]
    found = trial_of(home, run, trial)
    document = {key: value for key, value in put_values(origin.job, found["point"]).items() if key != "tune"}
    notes = [f"trial {trial} of run {run.id}"]
    if found["values"]:
        values = ", ".join(f"{metric} {value:.6g}" for metric, value in found["values"].items())
        notes.append(f"{found['status']} after {count(len(found['epochs']), 'epoch')}: {values}")
    for change in found["took_over"]:
        notes.append(f"at epoch {change['epoch']:g} it went on from the weights of trial {change['trial']}")
    if found["took_over"]:
        notes.append("what it was trained with changed on the way: this is the last configuration, not the result")
    return document, notes


def trial_of(home: Home, run: RunFolder, number: int) -> dict[str, Any]:
    """A trial, from the sweep's artifact, or from its ledger where the sweep is not done."""
    step = next((step for step in run.plan().steps if step.name == "tune"), None)
    if step is None:
        raise PlanError("the job of this run has no sweep", where=run.id, hint="leave --trial out")
    store = LocalStore(home.artifacts)
    artifact = store.find("tune", step.key)
    if artifact is not None:
        trials = read_sweep(artifact)["trials"]
    else:
        trials = [asdict(each) for each in read_ledger(store.work("tune", step.key) / LEDGER_FILE).trials]
    if number >= len(trials):
        last = f"its last one is {len(trials) - 1}" if trials else "it has none yet"
        raise PlanError(f"no trial {number}: {last}", where=f"{run.id}, tune", hint="`rayml report RUN` lists them")
    found: dict[str, Any] = trials[number]
    return found


def write_job(document: dict[str, Any], notes: Notes) -> str:
    """YAML that rayml reads, with its notes as comments; small sections on one line, as people write them."""
    comments = "".join(f"# {note}\n" for note in notes)
    return comments + yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
