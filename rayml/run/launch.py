"""From a plan to a finished run: start it where it belongs, follow its events, leave the report."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from rich.console import Console

from rayml.artifacts.store import LocalStore
from rayml.backends import local
from rayml.errors import RaymlError, StageError, error_from_json
from rayml.observe.events import EventLog, EventReader
from rayml.observe.progress import PlainWatcher, Watcher, conclude, watch
from rayml.observe.runs import Home, RunFolder
from rayml.observe.submissions import LOCAL
from rayml.plan.plan import Plan
from rayml.plan.show import Forecast
from rayml.report.page import write_report
from rayml.run.execution import EXIT_INTERRUPTED, execute
from rayml.run.result import summarize
from rayml.run.session import clean
from rayml.run.submitted import record, submission

POLL_INTERVAL_S = 0.1


def launch(plan: Plan, planned: Forecast, home: Home, console: Console) -> tuple[dict[str, Any], RaymlError | None]:
    """Run a plan on this machine and show it on the console; the run's document, and the error that ended it."""
    run = home.create_run(plan)
    here = is_debugged(plan, planned)
    watcher = PlainWatcher(console, run.id) if here else watch(console, run.id, [step.name for step in plan.steps])
    request = local.render(home, run)

    def tell() -> None:
        said = request.model_dump(mode="json")
        record(submission(plan, run.id, LOCAL, str(home.root.absolute()), None, said), console)

    with watcher:
        if here:
            tell()
            debug(home, run, watcher)
        elif planned.work:
            follow(local.submit(request), run, watcher, tell)
        else:
            tell()
            execute(home, run)
            for event in run.events():
                watcher.show(event)
    store = LocalStore(home.artifacts)
    report = write_report(run.path, store)
    result = summarize(run, store, report)
    conclude(console, result)
    return result, None if result["error"] is None else error_from_json(result["error"])


def is_debugged(plan: Plan, planned: Forecast) -> bool:
    """Whether a step that will run has to have the terminal: `strategy: {kind: local}` stops at breakpoints."""
    return any(plan.step(step.name).policy.get("launcher") == "inline" for step in planned.work)


def debug(home: Home, run: RunFolder, watcher: Watcher) -> None:
    """Run in this very process, with its input and output; a thread shows the events."""
    over = threading.Event()
    reader = EventReader(run.events_path)

    def show() -> None:
        while not over.wait(POLL_INTERVAL_S):
            show_new(reader, watcher)

    thread = threading.Thread(target=show, name="event-watcher", daemon=True)
    thread.start()
    try:
        execute(home, run)
    finally:
        over.set()
        thread.join()
        show_new(reader, watcher)


def follow(job: local.Job, run: RunFolder, watcher: Watcher, first: Callable[[], None]) -> None:
    """Show events until the run's process ends. Ctrl-C or SIGTERM ends the run with everything it started.

    Args:
        first: done at once, while the process imports what it needs.
    """
    reader = EventReader(run.events_path)
    asked_to_stop = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked_to_stop.append(number)

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        first()
        while job.status() is None and not asked_to_stop:
            show_new(reader, watcher)
            watcher.tick()
            time.sleep(POLL_INTERVAL_S)
        show_new(reader, watcher)
        if asked_to_stop:
            watcher.stop()
        job.stop()
        show_new(reader, watcher)
    finally:
        # Once asked to stop, the command only tells what was left and ends: a further Ctrl-C must not cut that short.
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if asked_to_stop else handler)
    close_events(run, job.status(), asked_to_stop=bool(asked_to_stop))
    clean(run.path)


def show_new(reader: EventReader, watcher: Watcher) -> None:
    """Hand on what was appended since the last time."""
    for event in reader.new():
        watcher.show(event)


def close_events(run: RunFolder, exit_code: int | None, *, asked_to_stop: bool) -> None:
    """Write the last event of a run whose process could not.

    A process that was asked to stop may fail on its way out, in the middle of an import or of Ray's start: that is no
    failure of the run.
    """
    end = next((event for event in reversed(run.events()) if event["kind"] == "run_done"), None)
    if end is not None and (end["status"] != "failed" or not asked_to_stop):
        return
    log = EventLog(run.events_path)
    if asked_to_stop:
        log.emit("run_done", status="interrupted", exit_code=EXIT_INTERRUPTED, error=None, seconds=None)
        log.close()
        return
    lost = StageError(
        f"the run's process ended without a word (exit code {exit_code})",
        where="driver",
        hint=f"its last output is in {run.path / 'driver.log'}; run the same command to go on after the last step",
    )
    log = EventLog(run.events_path)
    log.emit("run_done", status="failed", exit_code=lost.exit_code, error=lost.to_json(), seconds=None)
    log.close()
