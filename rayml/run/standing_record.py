"""The record of a cluster that stays: where it listens, what it is made of, and which processes are its own.

It stands in `<home>/clusters/<name>/` beside the token. Whoever finds it can ask the cluster, or end it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rayml.artifacts.durable import write_atomic
from rayml.backends.local import session_members
from rayml.errors import PlanError
from rayml.run.session import boot_id

RECORD, TOKEN, LOG = "cluster.json", "token", "cluster.log"
LOG_LINES = 3
MARK = "RAYML_STANDING"
"""In the environment of every process of a cluster: its id, which is no secret."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


class Sizes(BaseModel):
    """What a cluster is started with, every number by hand."""

    model_config = ConfigDict(frozen=True)

    cpus: int
    """Of the head."""
    gpus: int
    object_store: int
    """Bytes of the head's shared memory."""
    nodes: int = 0
    """Beside the head."""
    node_cpus: int = 0
    """Of each."""


class Standing(BaseModel):
    """A cluster that was started here. Holds no secret."""

    model_config = ConfigDict(frozen=True)

    name: str
    id: str
    """In the environment of its processes, under MARK."""
    folder: Path
    """Absolute: of this record, the token and the log."""
    temporary: Path
    """Of Ray's sockets and logs. Short, because a socket's path may have 107 characters."""
    sizes: Sizes
    gcs_port: int
    dashboard_port: int
    session: int | None = None
    """The process session that it was started in; None in the moment before."""
    boot: str
    created: str
    """ISO 8601, with the offset."""

    @property
    def address(self) -> str:
        """Of the dashboard and the Jobs API."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def gcs_address(self) -> str:
        """Which nodes join."""
        return f"127.0.0.1:{self.gcs_port}"

    @property
    def wanted(self) -> int:
        """Its nodes, the head among them."""
        return 1 + self.sizes.nodes

    @property
    def token_path(self) -> Path:
        return self.folder / TOKEN

    @property
    def log(self) -> Path:
        return self.folder / LOG

    def token(self) -> str:
        """What its clients show."""
        return self.token_path.read_text().strip()

    def write(self) -> None:
        write_atomic(self.folder / RECORD, self.model_dump_json(indent=1).encode(), mode=0o600)

    def processes(self) -> set[int]:
        """Its live processes: those that bear its mark, and the rest of the session that one of them is in.

        The mark tells them from a stranger's session that got the same number. Ray's workers write their title over
        the environment that others can see, and a job's driver has a session of its own: neither way finds both.
        """
        if self.boot != boot_id():
            return set()
        marked = _marked(self.id)
        members = set() if self.session is None else set(session_members(self.session))
        return marked | members if marked & members else marked

    def last_words(self) -> str:
        """The last lines that its processes printed."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return "\n  ".join(lines[-LOG_LINES:]) or "none"

    def end(self, keep_log: bool = False) -> None:
        """Kill its processes, and those that they start meanwhile; remove its folders, or all in them but the log."""
        while found := self.processes():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.temporary, ignore_errors=True)
        if keep_log:
            self.token_path.unlink()
            (self.folder / RECORD).unlink()
        else:
            shutil.rmtree(self.folder)


def _marked(cluster: str) -> set[int]:
    """The live processes whose environment names a cluster (Linux). Those of others cannot be read."""
    wanted = f"{MARK}={cluster}".encode()
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return found


def folder_of(home: Path, name: str) -> Path:
    """Where a cluster's record stands. PlanError for a name that is none."""
    if not _NAME.fullmatch(name):
        raise PlanError(f"{name!r} is no name of a cluster", hint="up to 40 of a-z, 0-9 and -, such as `local`")
    return home.absolute() / "clusters" / name


def read(folder: Path) -> Standing | None:
    """The record in a folder; None where there is none that can be read."""
    try:
        return Standing.model_validate_json((folder / RECORD).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def find(home: Path, name: str) -> Standing:
    """The record of a cluster. PlanError where there is none of this name."""
    found = read(folder_of(home, name))
    if found is None:
        known = ", ".join(sorted(path.parent.name for path in (home / "clusters").glob(f"*/{RECORD}"))) or "none"
        raise PlanError(
            f"no cluster {name!r} was started from {home}",
            hint=f"those that were: {known}; to start it: rayml cluster up FILE --name {name}",
        )
    return found
