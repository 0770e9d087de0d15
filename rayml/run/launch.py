"""From a plan to a finished run: start it where it belongs, follow its events, leave the report."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

from rich.console import Console

from rayml.artifacts.store import LocalStore
from rayml.backends import local
from rayml.errors import RaymlError, error_from_json
from rayml.observe.events import EventLog, EventReader
from rayml.observe.progress import Watcher, conclude, watch
from rayml.observe.runs import Home, RunFolder
from rayml.plan.plan import Plan
from rayml.plan.show import Forecast
from rayml.report.page import write_report
from rayml.run import entry
from rayml.run.result import summarize
from rayml.run.session import clean

POLL_INTERVAL_S = 0.1


def launch(plan: Plan, planned: Forecast, home: Home, console: Console) -> tuple[dict[str, Any], RaymlError | None]:
    """Run a plan on this machine and show it on the console; the run's document, and the error that ended it."""
    run = home.create_run(plan)
    watcher = watch(console, run.id, [step.name for step in plan.steps])
    with watcher:
        if planned.work:
            follow(local.submit(local.render(home, run)), run, watcher)
        else:
            entry.execute(home, run)
            for event in run.events():
                watcher.show(event)
    store = LocalStore(home.artifacts)
    report = write_report(run.path, store)
    result = summarize(run, store, report)
    conclude(console, result)
    return result, None if result["error"] is None else error_from_json(result["error"])


def follow(job: local.Job, run: RunFolder, watcher: Watcher) -> None:
    """Show events until the run's process ends. Ctrl-C or SIGTERM ends the run with everything it started."""
    reader = EventReader(run.events_path)
    asked_to_stop = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked_to_stop.append(number)

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while job.status() is None and not asked_to_stop:
            for event in reader.new():
                watcher.show(event)
            watcher.tick()
            time.sleep(POLL_INTERVAL_S)
        job.stop()
        for event in reader.new():
            watcher.show(event)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    close_events(run, job.status())
    clean(run.path)


def close_events(run: RunFolder, exit_code: int | None) -> None:
    """Write the last event of a run whose process could not."""
    if any(event["kind"] == "run_done" for event in run.events()):
        return
    lost = RaymlError(
        f"the run's process ended without a word (exit code {exit_code})",
        where="driver",
        hint=f"its last output is in {run.path / 'driver.log'}; run the same command to go on after the last step",
    )
    log = EventLog(run.events_path)
    log.emit("run_done", status="failed", exit_code=4, error={**lost.to_json(), "type": "StageError"}, seconds=None)
    log.close()
