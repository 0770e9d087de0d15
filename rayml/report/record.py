"""The record of a run as one JSON document, drawn only from its events, its plan and the artifacts that it names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rayml.artifacts.manifest import Artifact
from rayml.artifacts.store import Store
from rayml.errors import RaymlError
from rayml.observe.events import Event, read_events
from rayml.observe.submissions import submissions
from rayml.plan.plan import Plan, Step
from rayml.report.compress import compress_hop, compress_record
from rayml.report.sweep import sweep_record
from rayml.spec.evaluate import parse_gate

RECORD_VERSION = 1
EVENTS_FILE = "events.jsonl"
PLAN_FILE = "plan.json"
PARITY_METRIC = "parity_max_abs_diff"
PROFILE = ("steps", "step_ms", "shares", "workers", "operators", "bottleneck", "trace")
"""What is kept of a `profile` event."""

Record = dict[str, Any]


def collect(run_folder: Path, store: Store) -> Record:
    """Everything that the page shows. A part that the run did not reach is null or empty, never an error.

    Raises:
        RaymlError: the folder holds no plan, so it is not the folder of a run.
    """
    plan = _read_plan(run_folder / PLAN_FILE)
    events = read_events(run_folder / EVENTS_FILE)
    steps = [_step(step, events, store) for step in plan.steps]
    artifacts = {
        step.name: artifact
        for step, row in zip(plan.steps, steps, strict=True)
        if row["status"] in ("done", "cached") and (artifact := store.find(step.name, step.key))
    }
    gates = _gates(plan, events)
    compress = compress_record(plan, events, artifacts.get("compress"))
    record = {
        "schema_version": RECORD_VERSION,
        "run": _run(plan, events, steps, gates, run_folder.name),
        "cluster": plan.cluster.model_dump(),
        "steps": steps,
        "promises": _promises(plan, steps, gates, artifacts.get("export"), compress),
        "gates": gates,
        "sweep": sweep_record(plan, events, artifacts.get("tune")),
        "compress": compress,
        "training": _training(plan, events, artifacts.get("train")),
        "speed": _speed(events, artifacts.get("train")),
        "evaluation": _read_json(artifacts.get("evaluate"), "evaluation.json"),
        "data": artifacts["data"].manifest.facts if "data" in artifacts else None,
        "notes": [
            {"step": event.get("step"), "text": event.get("text", "")} for event in events if event["kind"] == "note"
        ],
        "environment": {name: artifact.manifest.environment for name, artifact in artifacts.items()},
        "submitted": [each.model_dump() for each in submissions(run_folder)],
    }
    finite: Record = _finite(record)
    return finite


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RaymlError(
            "there is no plan.json, so this is not the folder of a run",
            where=str(path.parent),
            hint="`rayml runs` lists the runs",
        ) from None
    except ValidationError as error:
        raise RaymlError(
            f"the plan cannot be read: {error.errors()[0]['msg']}",
            where=str(path),
            hint="another version of rayml wrote it, or it was damaged; run the job again",
        ) from None


def _run(plan: Plan, events: list[Event], steps: list[Record], gates: list[Record], name: str) -> Record:
    """When, where, and how it ended."""
    started = next((event for event in events if event["kind"] == "run_started"), {})
    # A run that was continued has several ends; what counts is the end after the last start.
    last_start = max((at for at, event in enumerate(events) if event["kind"] == "run_started"), default=0)
    done = next((event for event in events[last_start:] if event["kind"] == "run_done"), None)
    begin, end = (events[0]["t"], events[-1]["t"]) if events else (None, None)
    seconds = done.get("seconds") if done else None
    if seconds is None and begin is not None and end is not None:
        seconds = end - begin
    return {
        "id": started.get("run", name),
        "job": plan.job,
        "job_file": plan.job_file,
        "seed": plan.seed,
        "rayml": started.get("rayml", plan.rayml),
        "host": started.get("host"),
        "started": begin,
        "ended": end,
        "seconds": seconds,
        "exit_code": done.get("exit_code") if done else None,
        **_verdict(done, steps, gates),
    }


def _verdict(done: Event | None, steps: list[Record], gates: list[Record]) -> Record:
    """`passed`, `failed` or `incomplete`, and why in one sentence."""
    if done is not None and done["status"] == "done":
        said = [_counted(steps, "done", "ran"), _counted(steps, "cached", "cached")]
        said += [f"{len(gates)} {'gate' if len(gates) == 1 else 'gates'} met"] * bool(gates)
        return {"status": "passed", "reason": ", ".join(filter(None, said)), "hint": ""}
    if done is not None and done["status"] == "failed":
        error = done["error"]
        where = f"{error['where']}: " if error.get("where") else ""
        return {"status": "failed", "reason": where + error["what"], "hint": error.get("hint", "")}
    open_step = next((step for step in steps if step["status"] == "interrupted"), None)
    reason = f"stopped in {open_step['name']}" if open_step else "stopped between two steps"
    reason += f", {open_step['progress']}" if open_step and open_step["progress"] else ""
    return {"status": "incomplete", "reason": reason, "hint": "run the job again: it continues where it was"}


def _counted(steps: list[Record], status: str, verb: str) -> str:
    amount = sum(step["status"] == status for step in steps)
    return f"{amount} {'step' if amount == 1 else 'steps'} {verb}" if amount else ""


def _step(step: Step, events: list[Event], store: Store) -> Record:
    """A step as planned, what became of it, and the manifest of its artifact."""
    mine = [event for event in events if event.get("step") == step.name]
    ends = {"step_started": "interrupted", "step_cached": "cached", "step_done": "done", "step_failed": "failed"}
    last = next((event for event in reversed(mine) if event["kind"] in ends), None)
    status = ends[last["kind"]] if last else "not reached"
    first = next((event for event in mine if event["kind"] in ends), None)
    artifact = store.find(step.name, step.key) if status in ("done", "cached") else None
    return {
        "name": step.name,
        "status": status,
        "reason": next((event.get("reason") for event in reversed(mine) if event["kind"] == "step_cached"), None),
        "key": step.key,
        "inputs": step.inputs,
        "code": step.code,
        "resources": {**step.resources.model_dump(), "text": str(step.resources)},
        "config": step.config,
        "policy": step.policy,
        "started": first["t"] if first else None,
        "ended": last["t"] if last and last["kind"] != "step_started" else (mine[-1]["t"] if mine else None),
        "seconds": last.get("seconds") if last else None,
        "attempts": sum(event["kind"] == "step_started" for event in mine),
        "retries": [event.get("reason", "") for event in mine if event["kind"] == "retry"],
        "progress": _progress(mine),
        "error": last.get("error") if last and last["kind"] == "step_failed" else None,
        "artifact": _artifact(artifact) if artifact else None,
    }


def _progress(mine: list[Event]) -> str | None:
    """How far a step was when it was last heard of."""
    for event in reversed(mine):
        if event["kind"] == "progress" and "epochs" in event:
            return f"at epoch {event.get('epoch')} of {event['epochs']}"
        if event["kind"] == "sweep":
            most = event["budget"].get("trials")
            ended = event["done"] + event["stopped"] + event["failed"]
            return f"after {ended} of {most} trials" if most else f"after {ended} trials"
    return None


def _artifact(artifact: Artifact) -> Record:
    manifest = artifact.manifest
    kept = ("metrics", "facts", "run", "created", "seconds", "inputs", "code", "made_with")
    return {
        **{name: getattr(manifest, name) for name in kept},
        "path": str(artifact.path),
        "files": [entry.model_dump() for entry in manifest.files],
    }


def _promises(
    plan: Plan, steps: list[Record], gates: list[Record], export: Artifact | None, compress: Record | None
) -> list[Record]:
    """Each hop of the model from the checkpoint to the endpoint, and how far it was from the checkpoint.

    `passed` is null where the hop was not reached.
    """
    hops = []
    for step in steps:
        if step["name"] in ("export", "serve"):
            hops.append(_measured_hop(step, [gate for gate in gates if gate["step"] == step["name"]]))
        elif step["name"] == "compress":
            hops.append(compress_hop(step, compress))
        elif step["name"] == "evaluate":
            hops.append(_same_file_hop(plan, step, export))
    return hops


def _measured_hop(step: Record, gates: list[Record]) -> Record:
    """A hop whose probabilities were compared with those of the trained checkpoint."""
    bound = next((gate["bound"] for gate in gates if gate["metric"] == PARITY_METRIC), None)
    verdicts = [gate["passed"] for gate in gates if gate["passed"] is not None]
    failed = step["status"] == "failed"
    return {
        "step": step["name"],
        "kind": "measured",
        "difference": step["artifact"]["metrics"].get(PARITY_METRIC) if step["artifact"] else None,
        "agreement": None,
        "tolerance": parse_gate(bound)[1] if bound else None,
        "samples": step["config"].get("parity", {}).get("samples"),
        "passed": all(verdicts) and not failed if verdicts or failed else None,
        "worst": step["artifact"]["facts"].get("worst") if step["artifact"] else None,
        "files": step["artifact"]["facts"].get("formats", []) if step["artifact"] else [],
    }


def _same_file_hop(plan: Plan, step: Record, export: Artifact | None) -> Record:
    """Evaluation runs on the exported file itself; the lineage and the file's digest say that it was this one."""
    made_from = step["artifact"]["inputs"].get("export") if step["artifact"] else None
    model = next((entry for entry in export.manifest.files if entry.path.endswith(".onnx")), None) if export else None
    return {
        "step": step["name"],
        "kind": "same file",
        "file": model.path if model else None,
        "sha256": model.sha256 if model else None,
        "passed": None if made_from is None else made_from == plan.step("export").key,
    }


def _gates(plan: Plan, events: list[Event]) -> list[Record]:
    """Every gate of the job with the value that was held against it; `passed` is null where it was not judged."""
    judged = {(event.get("step"), event.get("metric")): event for event in events if event["kind"] == "gate"}
    gates = []
    for step in plan.steps:
        for metric, bound in step.policy.get("gates", {}).items():
            event = judged.get((step.name, metric), {})
            value, passed = event.get("value"), event.get("passed")
            gates.append({"step": step.name, "metric": metric, "bound": bound, "value": value, "passed": passed})
    return gates


def _training(plan: Plan, events: list[Event], artifact: Artifact | None) -> Record | None:
    """Epoch by epoch. From the artifact, so that a cached step has its curves; from the events where it never ended."""
    history = _read_json(artifact, "history.json")
    if history is None:
        epochs = {event["epoch"]: event for event in events if event["kind"] == "epoch" and "epoch" in event}
        history = [{name: value for name, value in event.items() if name != "kind"} for event in epochs.values()]
    if not history:
        return None
    best = plan.step("train").config.get("best", {})
    metric, goal = best.get("metric", "val/accuracy"), best.get("goal", "max")
    known = [row for row in history if isinstance(row.get(metric), int | float) and math.isfinite(row[metric])]
    choose = max if goal == "max" else min
    found = choose(known, key=lambda row: row[metric]) if known else None
    return {
        "history": history,
        "best": {"epoch": found["epoch"], "metric": metric, "goal": goal, "value": found[metric]} if found else None,
    }


def _speed(events: list[Event], artifact: Artifact | None) -> Record | None:
    """What the profile of the training saw; null where none was asked for."""
    told = next((event for event in reversed(events) if event["kind"] == "profile"), None)
    profile: Record | None = told if told is not None else artifact.manifest.facts.get("profile") if artifact else None
    return None if profile is None else {name: profile[name] for name in PROFILE if name in profile}


def _read_json(artifact: Artifact | None, name: str) -> Any:
    path = artifact.path / name if artifact else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else None


def _finite(value: Any) -> Any:
    """The same JSON with null in the place of NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
