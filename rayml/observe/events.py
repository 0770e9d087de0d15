"""The events of a run: one JSON object per line, appended and never changed. Status is read from them.

No secret is written: what reads them (status, logs, report, `--json`) need not look for any.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayml.redact.text import cleaned

Event = dict[str, Any]


class EventLog:
    """Appends events to a file. Safe to use from several threads; a line is written by one system call."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()

    def emit(self, kind: str, **fields: Any) -> None:
        """Append one event. `fields` hold JSON values."""
        line = json.dumps({"t": round(time.time(), 3), "kind": kind, **cleaned(fields)}, default=float) + "\n"
        with self._lock:
            os.write(self._descriptor, line.encode())

    def close(self) -> None:
        os.fsync(self._descriptor)
        os.close(self._descriptor)


def read_events(path: Path) -> list[Event]:
    """Every whole event of a file; a last line that a crash cut short is left out."""
    return list(EventReader(path).new())


class EventReader:
    """Reads a growing file of events, a part at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> Iterator[Event]:
        """The events that were appended since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            content = stream.read()
        end = content.rfind(b"\n") + 1
        self._offset += end
        for line in content[:end].splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue
