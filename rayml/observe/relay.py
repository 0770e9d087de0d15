"""Carries events from workers on any node to the driver, which alone writes the event log."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

POLL_INTERVAL_S = 0.5


class Mailbox:
    """A Ray actor that holds events until the driver takes them."""

    def __init__(self) -> None:
        self._events: list[tuple[str, dict[str, Any]]] = []

    def put(self, kind: str, fields: dict[str, Any]) -> None:
        self._events.append((kind, fields))

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        taken, self._events = self._events, []
        return taken


class Sender:
    """What a worker calls; it does not wait for the driver."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def __call__(self, kind: str, **fields: Any) -> None:
        self._mailbox.put.remote(kind, fields)


class Relay:
    """A mailbox, and the thread that empties it while the `with` block runs."""

    def __init__(self, emit: Callable[..., None]) -> None:
        import ray

        self._ray = ray
        self._emit = emit
        self._mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="event-relay", daemon=True)
        self.sender = Sender(self._mailbox)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        self._ray.kill(self._mailbox)

    def _pump(self) -> None:
        while not self._stop.wait(POLL_INTERVAL_S):
            self._take()
        self._take()

    def _take(self) -> None:
        try:
            events = self._ray.get(self._mailbox.take.remote(), timeout=10)
        except self._ray.exceptions.RayError:
            return
        for kind, fields in events:
            self._emit(kind, **fields)
