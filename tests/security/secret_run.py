"""A run that failed with secrets in its words, for the tests of what is read from it."""

from __future__ import annotations

from rayml.artifacts.store import LocalStore
from rayml.errors import StageError
from rayml.observe.events import EventLog
from rayml.observe.runs import Home
from rayml.plan.plan import ClusterPlan, Plan, make_step
from rayml.run.storage import FolderStorage


def failed_run(root, texts):
    """The run's folder, its storage and its store."""
    step = make_step("train", {"epochs": 1}, {}, "code")
    plan = Plan(
        rayml="0.1.0",
        job="digits",
        seed=7,
        job_file="job.yaml",
        base=str(root),
        code=None,
        cluster=ClusterPlan(cpus=1, gpus=0, object_store=0),
        steps=(step,),
    )
    home = Home(root)
    run = home.create_run(plan)
    log = EventLog(run.events_path)
    log.emit("run_started", run=run.id, job="digits", job_file="job.yaml", rayml="0.1.0", host=texts[0])
    log.emit("step_started", step="train", key=step.key, attempt=1)
    for text in texts:
        log.emit("note", step="train", text=text)
    error = StageError("\n".join(texts), where="train", hint=texts[1]).to_json()
    log.emit("step_failed", step="train", error=error)
    log.emit("run_done", status="failed", exit_code=4, error=error, seconds=1.0)
    log.close()
    return run, FolderStorage(root), LocalStore(home.artifacts)
