"""One lap as a command: started, watched to its end, with the processor time of everything that it started."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayml.bench.machine import Tree, Watch
from rayml.errors import StageError

LAST_LINES = 15
LEFT_OVER_GRACE_S = 10.0


@dataclass(frozen=True)
class Finished:
    """A command that ended with exit code 0."""

    seconds: float
    cpu_s: float
    stdout: str


def run_command(
    argv: Sequence[str],
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 600.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Finished:
    """Run a command to its end, and wait for what it left running, so that the next lap has the machine to itself.

    `cpu_s` is the larger of two counts, each of which misses something: the kernel's sum over all descendants that were
    waited for, and the sum over all that a look at /proc found (every 0.2 s).

    Raises:
        StageError: it ended with another exit code, or took too long; with its last lines.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        before, started = waited_for(), clock()
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        tree = Tree(process.pid)
        # wait(timeout) looks only every 0.05 s whether the process has ended, which is half of what is measured here.
        too_long = threading.Timer(timeout_s, process.kill)
        too_long.start()
        try:
            with Watch(tree):
                process.wait()
            seconds = clock() - started
        finally:
            too_long.cancel()
            process.terminate()
            end(tree)
            process.wait()
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if process.returncode == -signal.SIGKILL and seconds >= timeout_s:
        raise StageError(f"took more than {timeout_s:g} s", where=" ".join(argv))
    if process.returncode != 0:
        lines = "\n    ".join((stdout + stderr).splitlines()[-LAST_LINES:])
        raise StageError(
            f"ended with exit code {process.returncode}", where=" ".join(argv), hint=f"its last lines:\n    {lines}"
        )
    return Finished(seconds, max(tree.look(), waited_for() - before), stdout)


def waited_for() -> float:
    """Processor seconds of all descendants of this process that ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def end(tree: Tree) -> None:
    """Wait for what a command left behind; what is still there after 10 s is killed."""
    deadline = time.monotonic() + LEFT_OVER_GRACE_S
    tree.look()
    while tree.living() and time.monotonic() < deadline:
        time.sleep(0.1)
        tree.look()
    tree.signal(signal.SIGKILL)
