"""Keeping a run's model served, and asking it: `rayml serve` and `rayml predict`."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from rayml.artifacts.manifest import Artifact
from rayml.artifacts.store import LocalStore
from rayml.backends import local
from rayml.errors import PlanError, RaymlError, StageError, error_from_json
from rayml.observe.runs import Home, RunFolder
from rayml.plan.plan import Plan
from rayml.process import die_with_parent
from rayml.run.session import Session
from rayml.stages.serve.client import predict
from rayml.stages.serve.deployment import serve_forever
from rayml.stages.serve.endpoint import RECORD, Endpoint, read_endpoint
from rayml.stages.serve.stage import settings_of

FAILURE_FILE = "serve-error.json"
POLL_INTERVAL_S = 0.1


def serve_run(home: Home, name: str, host: str | None, port: int | None, console: Console) -> None:
    """Serve a run's exported model from a process of its own until Ctrl-C; the error that ended it, if one did."""
    run = home.find_run(name)
    exported_model(home, run.plan())
    with run.held() as alone:
        if not alone:
            raise PlanError(
                "this run is served already",
                where=run.id,
                hint=f"ask it: rayml predict {run.id} FILE, or stop it first",
            )
        for leftover in (RECORD, FAILURE_FILE):
            (run.path / leftover).unlink(missing_ok=True)
    options = {"host": host, "port": port}
    job = local.submit(local.render(home, run, "rayml.run.serving", (json.dumps(options),), "serve.log"))
    asked_to_stop: list[int] = []

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        asked_to_stop.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    console.print(f"starting the endpoint of {run.id}", highlight=False)
    announced = False
    while job.status() is None and not asked_to_stop:
        if not announced and (run.path / RECORD).exists():
            announce(run, read_endpoint(run.path), console)
            announced = True
        time.sleep(POLL_INTERVAL_S)
    job.stop()
    (run.path / RECORD).unlink(missing_ok=True)
    if (run.path / FAILURE_FILE).exists():
        raise error_from_json(json.loads((run.path / FAILURE_FILE).read_text()))
    if not asked_to_stop:
        raise StageError("the endpoint's process ended by itself", where=run.id, hint=f"see {run.path / 'serve.log'}")
    console.print("stopped; nothing is left running", highlight=False)


def announce(run: RunFolder, endpoint: Endpoint, console: Console) -> None:
    """Say where the model answers and how to ask it."""
    console.print(f"serving [bold]{endpoint.model}[/] at {endpoint.url}", highlight=False, soft_wrap=True)
    console.print(f"  rayml predict {run.id} FILE", highlight=False, soft_wrap=True)
    if endpoint.key is not None:
        console.print(f"  the bearer key is in {run.path / RECORD} (mode 0600)", highlight=False, soft_wrap=True)
    console.print("  Ctrl-C stops it", highlight=False)


def exported_model(home: Home, plan: Plan) -> Artifact:
    """The export artifact of a plan. PlanError where the run has none."""
    step = next((step for step in plan.steps if step.name == "export"), None)
    artifact = None if step is None else LocalStore(home.artifacts).find("export", step.key)
    if artifact is None:
        raise PlanError(
            "this run has no exported model", where=plan.job, hint=f"run it first: rayml run {plan.job_file}"
        )
    return artifact


def ask(home: Home, target: str, key: str | None, file: Path) -> dict[str, Any]:
    """The answer of an endpoint given by its URL or by the run that it serves."""
    if ":" in target:
        return predict(target, key, file)
    endpoint = read_endpoint(home.find_run(target).path)
    return predict(endpoint.url, key or endpoint.key, file)


def main(arguments: list[str]) -> int:
    """What the serving process runs: `python -m rayml.run.serving HOME RUN_FOLDER OPTIONS`."""
    die_with_parent()
    home, run, options = Home(Path(arguments[0])), RunFolder(Path(arguments[1])), json.loads(arguments[2])
    plan = run.plan()
    try:
        step = plan.step("serve")
    except KeyError:
        (run.path / FAILURE_FILE).write_text(json.dumps(no_serve_section(plan).to_json()))
        return PlanError.exit_code
    chosen = {name: value for name, value in options.items() if value is not None}
    step = step.model_copy(update={"policy": {**step.policy, **chosen}})
    session = Session(plan, run.path)
    with run.held() as alone:
        try:
            if not alone:
                raise PlanError("another process runs or serves this run", where=run.id)
            session.start(ignore)
            serve_forever(exported_model(home, plan).path, settings_of(step), run.path, ignore)
        except RaymlError as error:
            (run.path / FAILURE_FILE).write_text(json.dumps(error.to_json()))
            return error.exit_code
        finally:
            session.stop()
    return 0


def no_serve_section(plan: Plan) -> PlanError:
    """What is said of a job that does not say how it is served."""
    return PlanError("the job has no `serve` section", where=plan.job_file, hint="add `serve: {}` and run it once")


def ignore(*_: object, **__: object) -> None:
    """Takes what the serving process does not tell."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
