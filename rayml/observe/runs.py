"""The folder of a run: its plan, its events, its logs. What is known of a run is read from here."""

from __future__ import annotations

import contextlib
import fcntl
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from rayml.artifacts.durable import write_atomic
from rayml.errors import RaymlError
from rayml.observe.events import Event, read_events
from rayml.plan.plan import Plan


class NoSuchRun(RaymlError):
    """A run was named that is not here."""

    exit_code = 2


@dataclass(frozen=True)
class RunFolder:
    """One run."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def plan_path(self) -> Path:
        return self.path / "plan.json"

    def plan(self) -> Plan:
        return Plan.model_validate_json(self.plan_path.read_bytes())

    def events(self) -> list[Event]:
        return read_events(self.events_path)

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Held by the process that works in the folder until it ends, however it ends; False where another one does."""
        with (self.path / "held").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def status(self) -> str:
        """done, failed, or interrupted where the last event is not the end."""
        last = next((event for event in reversed(self.events()) if event["kind"] == "run_done"), None)
        return "interrupted" if last is None else str(last["status"])

    def log_files(self) -> list[Path]:
        """What its processes printed: the driver's, the workers', Ray's own."""
        found = [self.path / "driver.log", *sorted((self.path / "logs").rglob("*"))]
        return [path for path in found if path.is_file()]


class Home:
    """The folder that holds everything that rayml leaves on a machine: `.rayml` unless told otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def create_run(self, plan: Plan) -> RunFolder:
        """A new run folder with the plan in it."""
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        folder = self.root / "runs" / f"{plan.job}-{stamp}-{secrets.token_hex(2)}"
        folder.mkdir(parents=True)
        run = RunFolder(folder)
        write_atomic(run.plan_path, plan.model_dump_json(indent=1).encode())
        return run

    def runs(self) -> list[RunFolder]:
        """Every run, the newest first."""
        folders = [path.parent for path in (self.root / "runs").glob("*/plan.json")]
        return [RunFolder(path) for path in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)]

    def find_run(self, name: str) -> RunFolder:
        """A run by its id, by the beginning of it, by its job's name (the newest), or by its folder."""
        if (Path(name) / "plan.json").is_file():
            return RunFolder(Path(name))
        for run in self.runs():
            if run.id == name or run.id.startswith(f"{name}-") or run.id.startswith(name):
                return run
        known = ", ".join(run.id for run in self.runs()[:5]) or "none yet"
        raise NoSuchRun(f"no run {name!r} in {self.root}", hint=f"the newest runs: {known}")

    def latest_plan(self, job: str) -> Plan | None:
        """The plan of the newest run of a job, if it can still be read."""
        for run in self.runs():
            try:
                plan = run.plan()
            except (OSError, ValidationError):
                continue
            if plan.job == job:
                return plan
        return None
