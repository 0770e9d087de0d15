"""What the record holds of a sweep: its artifact and what was decided, or how far it got by its events."""

from __future__ import annotations

from typing import Any

from rayml.artifacts.manifest import Artifact
from rayml.observe.events import Event
from rayml.observe.sweep import SweepLog, Trial
from rayml.plan.plan import Plan, Step
from rayml.plan.settle import read_sweep
from rayml.spec.space import dimension_of
from rayml.spec.tune import RangeSpec

Record = dict[str, Any]


def sweep_record(plan: Plan, events: list[Event], artifact: Artifact | None) -> Record | None:
    """The sweep's document and what was decided; None where the job has no sweep."""
    step = next((step for step in plan.steps if step.name == "tune"), None)
    if step is None:
        return None
    document = document_of_events(step, events) if artifact is None else read_sweep(artifact)
    told = next((event for event in reversed(events) if event["kind"] == "decided"), None)
    fields = ("trial", "values", "objectives", "why", "tied", "interval")
    decision = None if told is None else {name: told[name] for name in fields}
    if plan.decision is not None:
        decision = plan.decision.model_dump(mode="json", include=set(fields))
    return {**document, "is_whole": artifact is not None, "decision": decision}


def document_of_events(step: Step, events: list[Event]) -> Record:
    """What the artifact would hold, as far as events tell it: of a sweep that was cut off, or that runs now."""
    config = step.config
    log = SweepLog(config["objectives"])
    mine = [event for event in events if event.get("step") == "tune"]
    for event in mine:
        log.take(event)
    return {
        **{name: config[name] for name in ("objectives", "scheduler", "search", "budget")},
        "space": [
            dimension_of(path, RangeSpec.model_validate(written)).to_json() for path, written in config["space"].items()
        ],
        "epochs": log.epochs or config["trial"]["train"]["config"]["epochs"],
        "trials": [cut_off(trial, mine[-1]["t"]) for trial in log.trials.values()],
        "nodes": log.nodes,
        "spent": log.state.get("spent"),
        "ended": None,
        "front": log.front,
        "hypervolume": [],
        "importance": {},
    }


def cut_off(trial: Trial, t: float) -> Trial:
    """A trial as it is when nothing more is known than at `t`."""
    if trial["status"] == "running":
        trial = {**trial, "status": "unfinished"}
        trial["spans"] = [{**span, "ended": span["ended"] or t} for span in trial["spans"]]
    return {**trial, "keys": {}, "took_over": []}
