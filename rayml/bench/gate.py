"""Where a training process waits for its turn: it says what it did, and goes on when it is told to."""

from __future__ import annotations

import json
import os
import select
from pathlib import Path
from typing import Any

DONE, GO = "done", "go"


def make_gate(folder: Path) -> None:
    """Create the two named pipes of a gate."""
    for name in (DONE, GO):
        os.mkfifo(folder / name)


class Gate:
    """The end that the training process holds. It travels: the pipes are opened where it is used."""

    def __init__(self, folder: str, epochs_per_lap: int) -> None:
        self._folder, self._epochs_per_lap = folder, epochs_per_lap
        self._records: list[dict[str, Any]] = []

    def epoch(self, record: dict[str, Any]) -> None:
        """Note an epoch's losses; at the end of a lap hand them over, and wait for the next turn."""
        self._records.append(record)
        if len(self._records) < self._epochs_per_lap:
            return
        with (Path(self._folder) / DONE).open("w") as done:
            done.write(json.dumps(self._records) + "\n")
        self._records = []
        with (Path(self._folder) / GO).open() as go:
            go.readline()


class Keeper:
    """The end that the bench holds."""

    def __init__(self, folder: Path) -> None:
        # Opened for reading and writing, a named pipe has no end of file and does not wait for the other side.
        self._done = os.open(folder / DONE, os.O_RDWR)
        self._go = os.open(folder / GO, os.O_RDWR)
        self._read = b""

    def open(self) -> None:
        """Let the training process through."""
        os.write(self._go, b"\n")

    def records(self, wait_s: float) -> list[dict[str, Any]] | None:
        """What the process did in its lap; None where it does not arrive at the gate in time."""
        while b"\n" not in self._read:
            if not select.select([self._done], [], [], wait_s)[0]:
                return None
            self._read += os.read(self._done, 1 << 16)
        line, _, self._read = self._read.partition(b"\n")
        records: list[dict[str, Any]] = json.loads(line)
        return records

    def close(self) -> None:
        os.close(self._done)
        os.close(self._go)
