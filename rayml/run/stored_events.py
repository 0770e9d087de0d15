"""What a run tells while it is followed from another machine: its events, as its driver sends them to the storage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from rayml.errors import BackendError
from rayml.observe.events import EventReader
from rayml.observe.progress import PlainWatcher
from rayml.run.storage import open_storage, run_folder

REFRESH_S = 2.0
TICK_S = 0.1


class StoredEvents:
    """A line for each event that is new since it was made; for whoever has no pod to read a log from.

    Args:
        anew: whether events that are there already are an earlier driver's, and not told.
    """

    def __init__(self, storage: str, run: str, console: Console, *, anew: bool) -> None:
        self._storage, self._run, self._console = open_storage(storage, to_read=True), run, console
        self._reader = EventReader(run_folder(self._storage.home, run).events_path)
        self._watcher = PlainWatcher(console, run)
        self._is_over, self._next, self._silent = False, 0.0, False
        if anew:
            with self._told():
                self._storage.refresh(run)
            for _ in self._reader.new():
                pass

    def look(self) -> None:
        """Nothing has to be found: the storage is known."""

    def hand_on(self, say: Callable[[str], None], for_s: float, *, until_closed: bool) -> None:
        """Tell what comes for that long; no longer than the run goes on, where that is asked for."""
        deadline = time.monotonic() + for_s
        while time.monotonic() < deadline and not (until_closed and (self._is_over or self._silent)):
            if time.monotonic() >= self._next:
                self._tell()
            time.sleep(min(TICK_S, max(0.0, deadline - time.monotonic())))

    def _tell(self) -> None:
        with self._told():
            self._storage.refresh(self._run)
        self._next = time.monotonic() + REFRESH_S
        for event in self._reader.new():
            self._is_over = event["kind"] == "run_done"
            self._watcher.show(event)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say once that the storage cannot be read from here, and go on: the run does."""
        try:
            yield
            self._silent = False
        except BackendError as error:
            if not self._silent:
                what = f"what the run does cannot be seen from here, only how it stands: {error}"
                self._console.print(what, highlight=False, markup=False, soft_wrap=True)
            self._silent = True
