"""A side that stays up between its laps: it waits at a gate, and is stopped while the other side runs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from rayml.bench.command import LAST_LINES
from rayml.bench.gate import Keeper, make_gate
from rayml.bench.harness import Lap
from rayml.bench.machine import Tree
from rayml.errors import StageError

POLL_S = 1.0
LAP_LIMIT_S = 300.0
END_LIMIT_S = 30.0


class Player:
    """Training processes that do one lap at a time. Its first lap is the start-up with the first epochs."""

    def __init__(self, name: str, argv: Sequence[str], folder: Path, rows: int, environment: Mapping[str, str]) -> None:
        """Start it. `rows` are those of one lap; `folder` is empty and takes its gate and its log."""
        make_gate(folder)
        self._name, self._rows, self._log = name, rows, folder / "log"
        self._keeper = Keeper(folder)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._tree = Tree(self._process.pid)
        self._waiting = self._ended = False

    def __enter__(self) -> Player:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(kindly=kind is None)

    def lap(self) -> Lap:
        """Run until it is at the gate again. StageError where it ends before, or does not come.

        The clock runs from the moment the gate opens to the moment at which the process has said what it did; waking
        and stopping the processes is not part of it.
        """
        before = 0.0
        if self._waiting:
            self._tree.signal(signal.SIGCONT)
            before = self._tree.look()
            self._keeper.open()
        started = time.perf_counter()
        while (records := self._keeper.records(POLL_S)) is None:
            self._refuse(time.perf_counter() - started)
        seconds = time.perf_counter() - started
        used = self._tree.look() - before
        self._tree.signal(signal.SIGSTOP)
        self._waiting = True
        return Lap(value=self._rows / seconds, cpu_s=used, proof=records)

    def end(self, kindly: bool = True) -> None:
        """End all its processes: kindly where it has run its last lap, and by force where that takes too long."""
        if self._ended:
            return
        self._ended = True
        self._tree.signal(signal.SIGCONT)
        try:
            if kindly:
                self._keeper.open()
                self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._tree.signal(signal.SIGKILL)
            self._process.wait()
            self._keeper.close()

    def _refuse(self, seconds: float) -> None:
        code = self._process.poll()
        if code is None and seconds < LAP_LIMIT_S:
            return
        lines = "\n    ".join(self._log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        what = f"ended with exit code {code}" if code is not None else f"did not end its lap within {LAP_LIMIT_S:g} s"
        raise StageError(what, where=self._name, hint=f"its last lines:\n    {lines}")
