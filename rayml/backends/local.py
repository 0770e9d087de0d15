"""The local backend: the run in a process of its own on this machine, its noise in the run folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rayml.observe.runs import Home, RunFolder

STOP_GRACE_S = 20.0


class Request(BaseModel):
    """Exactly what is started."""

    model_config = ConfigDict(frozen=True)

    argv: tuple[str, ...]
    environment: dict[str, str]
    """Added to the present environment."""
    log: Path
    """Takes everything that the process prints."""


def render(
    home: Home, run: RunFolder, module: str = "rayml.run.entry", more: tuple[str, ...] = (), log: str = "driver.log"
) -> Request:
    """What `submit` will start for a run folder. Touches nothing."""
    return Request(
        argv=(sys.executable, "-m", module, str(home.root.absolute()), str(run.path.absolute()), *more),
        environment={"PYTHONUNBUFFERED": "1"},
        log=run.path / log,
    )


def submit(request: Request) -> Job:
    """Start the process. It has a session of its own, so that Ctrl-C reaches it through `stop` and nothing else."""
    with request.log.open("ab") as log:
        process = subprocess.Popen(
            request.argv,
            env={**os.environ, **request.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Job(process)


class Job:
    """A run that was started here."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def status(self) -> int | None:
        """The exit code, or None while it runs; negative where a signal ended it."""
        return self._process.poll()

    def stop(self) -> None:
        """End the run and every process that it started: first kindly, after 20 s by force."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        end_session(self._process.pid)


def end_session(session: int) -> None:
    """Kill every process of a session that `submit` made."""
    for pid in session_members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def session_members(session: int) -> list[int]:
    """The live processes of a session, by /proc (Linux)."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            members.append(int(entry.parent.name))
    return members
