"""Where the runs and artifacts of a cluster are, seen from the node that walks a plan or from a reader's machine."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from rayml.artifacts.durable import create_exclusive
from rayml.artifacts.hosts import CHECKPOINTS
from rayml.artifacts.lease import Lease, LeaseLost
from rayml.artifacts.opening import open_artifacts
from rayml.artifacts.s3 import S3Store
from rayml.artifacts.store import LocalStore, Store
from rayml.artifacts.work import pull
from rayml.errors import BackendError
from rayml.observe.events import read_events
from rayml.observe.meanwhile import meanwhile
from rayml.observe.runs import Home, RunFolder
from rayml.plan.plan import Plan

PUSH_EVERY_S = 2.0
"""Between two looks at what a run has written; no more than so much is lost with a node."""


class Storage(Protocol):
    """Holds runs and artifacts beyond the life of a cluster."""

    @property
    def home(self) -> Home:
        """A folder of this node: the storage itself, or what was brought here of it."""

    @property
    def store(self) -> Store:
        """The artifacts."""

    def claim(self, run: str) -> AbstractContextManager[bool]:
        """Held by the one driver that works on a run; False where another one lives. What it left is here then."""

    def kept(self, run: RunFolder, plan: Plan) -> AbstractContextManager[None]:
        """Within it, what is written to the run's folder reaches the storage; at its end, all of it has."""

    def refresh(self, run: str = "") -> None:
        """Bring what the storage has of one run, or the plans and events of all."""

    def is_walked(self, run: RunFolder) -> bool:
        """Whether a driver works on a run now, as far as can be told."""


class FolderStorage:
    """A folder that every node sees."""

    def __init__(self, root: Path) -> None:
        self._home = Home(root)

    @property
    def home(self) -> Home:
        return self._home

    @property
    def store(self) -> Store:
        return LocalStore(self._home.artifacts)

    @contextlib.contextmanager
    def claim(self, run: str) -> Iterator[bool]:
        folder = run_folder(self._home, run)
        folder.path.mkdir(parents=True, exist_ok=True)
        with folder.held() as alone:
            yield alone

    @contextlib.contextmanager
    def kept(self, run: RunFolder, plan: Plan) -> Iterator[None]:
        yield

    def refresh(self, run: str = "") -> None:
        pass

    def is_walked(self, run: RunFolder) -> bool:
        with run.held() as alone:
            return not alone


class BucketStorage:
    """A bucket, and a folder of this node with what is made or needed here."""

    def __init__(self, store: S3Store, exact: bool = False) -> None:
        """
        Args:
            store: below `artifacts` of the storage's prefix, as `open_artifacts` opens it.
            exact: whether what somebody removed from the bucket goes here too; a driver keeps what it has.
        """
        self._exact = exact
        self._store = store
        self._scratch = store.cache.parent
        self._hosts = store.hosts()
        self._leases = store.leases()
        self._lease: Lease | None = None

    @property
    def home(self) -> Home:
        return Home(self._scratch)

    @property
    def store(self) -> Store:
        return self._store

    @contextlib.contextmanager
    def claim(self, run: str) -> Iterator[bool]:
        lease = self._leases.acquire(f"runs/{run}", watch_s=2 * self._leases.ttl_s, on_lost=interrupt)
        if lease is None:
            yield False
            return
        self._lease = lease
        try:
            self.refresh(run)
            yield True
        finally:
            self._lease = None
            lease.release()

    @contextlib.contextmanager
    def kept(self, run: RunFolder, plan: Plan) -> Iterator[None]:
        for step in plan.steps:
            self._hosts.fetch(self._store.work(step.name, step.key), is_the_drivers)
        self._hosts.send(run.path, again=True)

        def push_what_is_new() -> None:
            # The bucket may be away for a while: what was not sent then is sent later.
            with contextlib.suppress(BackendError):
                self._push(run, plan)

        try:
            with meanwhile(push_what_is_new, PUSH_EVERY_S, "run-to-bucket"):
                yield
        finally:
            with contextlib.suppress(LeaseLost):
                self._push(run, plan)

    def refresh(self, run: str = "") -> None:
        if run:
            self._hosts.fetch(run_folder(self.home, run).path, exact=self._exact)
        else:
            self._bring_outlines()

    def is_walked(self, run: RunFolder) -> bool:
        return self._leases.holder(f"runs/{run.id}") is not None

    def _bring_outlines(self) -> None:
        """The plans and events of all runs."""
        folder, index = self._scratch / "runs", self._scratch / "outlines.json"
        folder.mkdir(exist_ok=True)
        wants = lambda name: name.endswith(("/plan.json", "/events.jsonl"))  # noqa: E731
        pull(folder, self._store.bucket.beside("runs"), "", index, wants, self._exact)

    def _push(self, run: RunFolder, plan: Plan) -> None:
        """Send what is new. LeaseLost where another driver may have taken over: its events must not be written over."""
        self._check_lease()
        self._hosts.send(run.path)
        for step in plan.steps:
            self._check_lease()
            self._hosts.send(self._store.work_folder(step.name, step.key), is_the_drivers)

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()


def is_the_drivers(name: str) -> bool:
    """Whether a file of a step's work is sent by the driver; checkpoints, by whoever writes them."""
    return not name.startswith(f"{CHECKPOINTS}/")


def interrupt() -> None:
    """End the driver as Ctrl-C would: another one may have taken its run over."""
    os.kill(os.getpid(), signal.SIGTERM)


def open_storage(uri: str, to_read: bool = False) -> Storage:
    """The storage of a folder or of `s3://bucket/prefix`. PlanError for anything else; nothing is read yet.

    Args:
        to_read: whether runs are only looked at.
    """
    store = open_artifacts(uri, "read" if to_read else "write")
    if isinstance(store, S3Store):
        return BucketStorage(store, exact=to_read)
    assert isinstance(store, LocalStore), "open_store opens these two"
    return FolderStorage(store.root.parent.absolute())


def run_folder(home: Home, run: str) -> RunFolder:
    """The folder of a run by its whole name."""
    return RunFolder(home.root / "runs" / run)


def create_or_resume(home: Home, run: str, plan: Plan) -> RunFolder:
    """The run's folder with its plan in it. A plan that is there already stays: the run goes on with it."""
    folder = run_folder(home, run)
    folder.path.mkdir(parents=True, exist_ok=True)
    create_exclusive(folder.plan_path, plan.model_dump_json(indent=1).encode())
    return folder


def ended_with(uri: str, run: str) -> tuple[str, int] | None:
    """Status and exit code that a run's last driver wrote; None where it could not, or nothing is seen from here."""
    storage = open_storage(uri, to_read=True)
    storage.refresh(run)
    end = None
    for event in read_events(run_folder(storage.home, run).events_path):
        if event["kind"] in ("run_started", "run_done"):
            end = event if event["kind"] == "run_done" else None
    return None if end is None else (str(end["status"]), int(end["exit_code"]))
