"""What `rayml run --json` prints: the run as one document, read from its events and the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayml.artifacts.store import Store
from rayml.observe.runs import RunFolder


def summarize(run: RunFolder, store: Store, report: Path | None) -> dict[str, Any]:
    """Run id, status, exit code, steps, metrics by step, artifact folders, the endpoint check and the report's path."""
    plan, events = run.plan(), run.events()
    end = next((event for event in reversed(events) if event["kind"] == "run_done"), None)
    steps, metrics, artifacts, endpoint = [], {}, {}, {}
    for step in plan.steps:
        mine = [event for event in events if event.get("step") == step.name]
        made = next((event for event in mine if event["kind"] in ("step_done", "step_cached")), None)
        artifact = store.find(step.name, step.key) if made else None
        if made is None or artifact is None:
            continue
        status = "done" if made["kind"] == "step_done" else "cached"
        seconds = made.get("seconds", 0.0)
        steps.append({"name": step.name, "key": step.key, "status": status, "seconds": seconds})
        metrics[step.name] = artifact.manifest.metrics
        artifacts[step.name] = str(artifact.path)
        if step.name == "serve":
            endpoint = {"metrics": artifact.manifest.metrics, **artifact.manifest.facts}
    return {
        "run": run.id,
        "status": end["status"] if end else "interrupted",
        "exit_code": end["exit_code"] if end else None,
        "error": end["error"] if end else None,
        "steps": steps,
        "metrics": metrics,
        "artifacts": artifacts,
        "endpoint": endpoint,
        "report": None if report is None else str(report),
    }
