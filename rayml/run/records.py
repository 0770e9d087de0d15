"""What is left of runs, read from their storage: no cluster has to be there."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rayml.errors import PlanError
from rayml.observe.events import Event, EventReader
from rayml.observe.progress import PlainWatcher
from rayml.observe.runs import NoSuchRun, RunFolder
from rayml.redact.text import redacted
from rayml.run.storage import FolderStorage, Storage, open_storage

POLL_S = 0.5


def reading(storage: str | None, home: Path) -> Storage:
    """What to read from: the storage, or the folder of this machine."""
    found = FolderStorage(home) if storage is None else open_storage(storage, to_read=True)
    found.refresh()
    return found


def find(storage: str | None, home: Path, name: str) -> tuple[Storage, RunFolder]:
    """A run by its name or the beginning of it, with all that is kept of it. NoSuchRun where there is none."""
    kept = reading(storage, home)
    try:
        run = kept.home.find_run(name)
    except NoSuchRun as error:
        if storage is None:
            raise
        # The home of a bucket is a folder of this host that nobody has to know.
        raise NoSuchRun(f"no run {name!r} in {storage}", hint=error.hint) from None
    kept.refresh(run.id)
    return kept, run


def list_runs(storage: str | None, home: Path) -> list[dict[str, Any]]:
    """`run`, `job`, `status`, `step`, `started`, `seconds` and `exit_code` of each run, the newest first."""
    kept = reading(storage, home)
    return [summary(run, kept) for run in kept.home.runs()]


def describe_run(storage: str | None, home: Path, name: str) -> dict[str, Any]:
    """The same of one run, with its steps and its logs. NoSuchRun where there is none of that name."""
    kept, run = find(storage, home, name)
    return {
        **summary(run, kept),
        "steps": steps_of(run),
        "logs": [str(path.relative_to(run.path)) for path in run.log_files()],
    }


def summary(run: RunFolder, kept: Storage) -> dict[str, Any]:
    """What one line of a list says."""
    events = since_last_start(run.events())
    first, end = (next((each for each in events if each["kind"] == kind), None) for kind in ("run_started", "run_done"))
    steps = [each["step"] for each in events if each["kind"] == "step_started"]
    return {
        "run": run.id,
        "job": run.plan().job,
        "status": str(end["status"]) if end else "running" if kept.is_walked(run) else "interrupted",
        "step": steps[-1] if steps and not end else None,
        "started": first["t"] if first else None,
        "seconds": round(events[-1]["t"] - first["t"], 3) if first else None,
        "exit_code": end["exit_code"] if end else None,
        "error": end["error"] if end else None,
    }


def since_last_start(events: list[Event]) -> list[Event]:
    """What the last driver of a run said."""
    starts = [place for place, event in enumerate(events) if event["kind"] == "run_started"]
    return events[starts[-1] :] if starts else events


def steps_of(run: RunFolder) -> list[dict[str, Any]]:
    """`name`, `status`, `seconds` of every step, as the last driver left them."""
    told = {step.name: {"name": step.name, "status": "waiting", "seconds": None} for step in run.plan().steps}
    words = {"step_started": "running", "step_done": "done", "step_cached": "cached", "step_failed": "failed"}
    for event in since_last_start(run.events()):
        if event["kind"] in words and event.get("step") in told:
            told[event["step"]] |= {"status": words[event["kind"]], "seconds": event.get("seconds")}
    return list(told.values())


def print_runs(console: Console, runs: list[dict[str, Any]]) -> None:
    """One line for each."""
    if not runs:
        console.print("no runs yet")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "status", "step", "started", "time"):
        table.add_column(name, no_wrap=name in ("run", "status"))
    for run in runs:
        started = (
            "" if run["started"] is None else f"{datetime.fromtimestamp(run['started']).astimezone():%Y-%m-%d %H:%M}"
        )
        seconds = "" if run["seconds"] is None else f"{run['seconds']:,.1f} s"
        table.add_row(run["run"], run["status"], run["step"] or "", started, seconds)
    console.print(table)


def print_run(console: Console, run: dict[str, Any]) -> None:
    """A run, its steps and its logs."""
    code = "" if run["exit_code"] is None else f" (exit code {run['exit_code']})"
    console.print(f"{run['run']}: {run['status']}{code}", highlight=False)
    if run["error"]:
        where = f"{run['error']['where']}: " if run["error"]["where"] else ""
        console.print(f"  {where}{run['error']['what']}", highlight=False, markup=False)
    for step in run["steps"]:
        seconds = "" if step["seconds"] is None else f" in {step['seconds']:.1f} s"
        console.print(f"{step['name']:>9}  {step['status']}{seconds}", highlight=False)
    if run["logs"]:
        console.print(f"logs: {', '.join(run['logs'][:6])}{' ...' if len(run['logs']) > 6 else ''}", highlight=False)


def print_events(console: Console, storage: str | None, home: Path, name: str, follow: bool) -> None:
    """A line for each thing that happened; with `follow` until the run ends."""
    kept, run = find(storage, home, name)
    watcher, reader = PlainWatcher(console, run.id), EventReader(run.events_path)
    while True:
        over = False
        for event in reader.new():
            watcher.show(event)
            over = event["kind"] == "run_done"
        if over or not follow or not kept.is_walked(run):
            return
        time.sleep(POLL_S)
        kept.refresh(run.id)


def print_log(console: Console, storage: str | None, home: Path, name: str, file: str) -> None:
    """A log by its name, or the beginning of it. PlanError where there is none."""
    _, run = find(storage, home, name)
    known = {str(path.relative_to(run.path)): path for path in run.log_files()}
    found = known.get(file) or next((path for each, path in known.items() if Path(each).name.startswith(file)), None)
    if found is None:
        raise PlanError(f"the run has no log {file!r}", where=run.id, hint=f"its logs: {', '.join(known) or 'none'}")
    console.print(redacted(found.read_text(errors="replace")), end="", markup=False, highlight=False, soft_wrap=True)
