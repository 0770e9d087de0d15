"""What a bench has to know of the machine: what it is, where its processor time goes, what a tree of processes used."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LOOK_INTERVAL_S = 0.2
"""One look at /proc takes 1 to 2 ms."""


@dataclass(frozen=True)
class SystemTimes:
    """Processor seconds of the whole machine since it started (/proc/stat, proc_stat(5)); zeros where it has none."""

    busy_s: float = 0.0
    steal_s: float = 0.0
    total_s: float = 0.0

    def __sub__(self, before: SystemTimes) -> SystemTimes:
        return SystemTimes(self.busy_s - before.busy_s, self.steal_s - before.steal_s, self.total_s - before.total_s)


def system_times() -> SystemTimes:
    """Where the machine's processor time went so far."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return SystemTimes()
    user, nice, system, idle, iowait, irq, softirq, steal = (int(word) / TICKS_PER_S for word in line.split()[1:9])
    busy = user + nice + system + irq + softirq
    return SystemTimes(busy, steal, busy + steal + idle + iowait)


def describe_machine() -> dict[str, Any]:
    """What the figures belong to."""
    from rayml.run.making import environment

    found = environment()
    names = ("processor", "system", "machine", "python", "rayml", "ray", "torch", "onnxruntime")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        **{name: found[name] for name in names},
    }


@dataclass
class Tree:
    """A process and everything that it started, as far as /proc shows it; a process once seen stays a member.

    A process's time is its own (fields 14 and 15 of proc_pid_stat(5)), as it was when it was last seen: Ray's raylet
    ignores the end of its children, so that no `wait` of an ancestor would count them.
    """

    root: int
    _ticks: dict[tuple[int, int], int] = field(default_factory=dict)
    """(process id, start time) of every member seen to its processor time."""
    _living: set[int] = field(default_factory=set)

    def look(self) -> float:
        """Processor seconds of all members so far."""
        processes = read_processes()
        members = {
            pid
            for pid, process in processes.items()
            if (pid, process.start) in self._ticks or (pid == self.root and not self._ticks)
        }
        grown = True
        while grown:
            more = {pid for pid, process in processes.items() if process.parent in members} - members
            grown = bool(more)
            members |= more
        self._living = {pid for pid in members if processes[pid].state != "Z"}
        for pid in members:
            self._ticks[pid, processes[pid].start] = processes[pid].ticks
        return sum(self._ticks.values()) / TICKS_PER_S

    def living(self) -> set[int]:
        """Members that had not ended at the last look."""
        return self._living

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every member, those included that were born meanwhile."""
        reached: set[int] = set()
        while True:
            self.look()
            new = self._living - reached
            if not new:
                return
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            reached |= new


class Watch:
    """Looks at a tree again and again while the `with` block runs, so that short-lived processes are counted."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tree-watch", daemon=True)

    def __enter__(self) -> Tree:
        self._thread.start()
        return self._tree

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_INTERVAL_S):
            self._tree.look()


@dataclass(frozen=True)
class Process:
    """A line of /proc/PID/stat."""

    state: str
    parent: int
    ticks: int
    start: int


def read_processes() -> dict[int, Process]:
    """Every process of the machine; none where there is no /proc."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(entry.parent.name)] = Process(
            fields[0], int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[19])
        )
    return found
