"""The sweep's ledger: one JSON line for each thing that happened, from which alone it is read where a sweep stands.

It lies in the step's work folder, so a sweep whose driver was killed goes on from it: what was proposed is not proposed
again, what is done is not run again, what was spent stays spent. Nothing in it is code, and nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayml.errors import StageError
from rayml.spec.space import Point

LEDGER_FILE = "trials.jsonl"


@dataclass
class Trial:
    """One configuration and what became of it."""

    number: int
    point: Point
    origin: str
    """known, draw, search or grid: where the configuration came from."""
    again: int = 0
    """Proposals of the search for this number that were of no use."""
    status: str = "waiting"
    """waiting, running, done, stopped (by the scheduler), failed, unfinished (the budget ended first)."""
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)
    """Objectives and limits, of the checkpoint that would be kept."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    started: float | None = None
    """Unix time of the first start."""
    ended: float | None = None
    seconds: float = 0.0
    """Time on a node, restarts added up."""
    spans: list[dict[str, Any]] = field(default_factory=list)
    """`node`, `started`, `ended` of each time that it ran."""
    attempts: int = 0
    error: str | None = None
    keys: dict[str, str] = field(default_factory=dict)
    """Step to the key of its artifact."""
    took_over: list[dict[str, Any]] = field(default_factory=list)
    """`epoch`, `trial` and the new `point`, each time that it went on from another's weights at that epoch."""
    population: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.status in ("done", "stopped", "failed", "unfinished")


@dataclass
class Spent:
    """What a sweep has used up."""

    wall_s: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    money: float = 0.0


@dataclass
class Sweep:
    """Where a sweep stands."""

    trials: list[Trial] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    nodes: list[dict[str, float]] = field(default_factory=list)
    order: list[tuple[str, int]] = field(default_factory=list)
    """`("proposed" | "ended", number)` as they happened: what a search has to be told in this order."""

    def apply(self, line: dict[str, Any]) -> None:
        """Take one line of the ledger."""
        kind = line["kind"]
        if kind == "spent":
            known = {name: value for name, value in line["spent"].items() if name in Spent.__dataclass_fields__}
            self.spent = Spent(**known)
        elif kind == "nodes":
            self.nodes.append({name: line[name] for name in ("t", "nodes", "cpus")})
        elif kind == "proposed":
            assert line["trial"] == len(self.trials), "trials are numbered in the order in which they are proposed"
            made = {name: line[name] for name in ("point", "origin", "again", "population")}
            self.trials.append(Trial(line["trial"], **made))
            self.order.append(("proposed", line["trial"]))
        elif kind == "took_over":
            self._take_over(self.trials[line["trial"]], self.trials[line["source"]], line)
        elif kind in APPLY:
            trial = self.trials[line["trial"]]
            if kind == "ended":
                if trial.ended is not None:
                    self.forget_end(trial.number)
                self.order.append(("ended", trial.number))
            APPLY[kind](trial, line)

    def forget_end(self, number: int) -> None:
        """A trial goes on after all."""
        self.order = [each for each in self.order if each != ("ended", number)]

    def reopen(self) -> None:
        """Let those go on that a process left behind, when the sweep was not done.

        That is whoever ran; what a budget or a number of failures cut short, which may be larger now; and, where every
        trial failed, all of them: what made them fail may be mended.
        """
        all_failed = all(trial.status == "failed" for trial in self.trials)
        for trial in self.trials:
            if not trial.is_over or trial.status == "unfinished" or all_failed:
                trial.status = "waiting"
                self.forget_end(trial.number)

    def _take_over(self, trial: Trial, source: Trial, line: dict[str, Any]) -> None:
        """The weights are another's from now on, and what they had at each epoch before."""
        trial.took_over.append({"epoch": line["epoch"], "trial": source.number, "point": line["point"]})
        trial.point, trial.population = line["point"], line["population"]
        trial.epochs = [dict(record) for record in source.epochs if record["epoch"] <= line["epoch"]]

    @property
    def failures(self) -> int:
        return sum(trial.status == "failed" for trial in self.trials)

    def unfinished(self) -> list[Trial]:
        """Trials that were proposed and have not come to an end."""
        return [trial for trial in self.trials if not trial.is_over]


def _start(trial: Trial, line: dict[str, Any]) -> None:
    trial.status, trial.attempts = "running", trial.attempts + 1
    trial.started = line["t"] if trial.started is None else trial.started


def _epoch(trial: Trial, line: dict[str, Any]) -> None:
    record = {**line["record"], "t": line["t"]}
    # An epoch that a crash let happen twice counts once: it had the same rows and the same result.
    trial.epochs = [before for before in trial.epochs if before["epoch"] < record["epoch"]] + [record]


def _leave(trial: Trial, line: dict[str, Any]) -> None:
    trial.spans.append({name: line[name] for name in ("node", "started", "ended")})
    trial.seconds += line["ended"] - line["started"]
    trial.status = "waiting" if not trial.is_over else trial.status


def _end(trial: Trial, line: dict[str, Any]) -> None:
    for name in ("status", "reason", "values", "error", "keys"):
        setattr(trial, name, line[name])
    trial.ended = line["t"]


APPLY = {"started": _start, "epoch": _epoch, "left": _leave, "ended": _end}


class Ledger:
    """Appends to the file, and keeps the sweep that it says."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER_FILE
        self.sweep = read_ledger(self.path)
        self.sweep.reopen()
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        # A line that a crash cut short would swallow the next one.
        os.ftruncate(self._descriptor, sum(len(line) + 1 for line in read_whole_lines(self.path)))

    def write(self, kind: str, *, durable: bool = False, **fields: Any) -> None:
        """Append one line and apply it.

        Args:
            durable: whether it has to outlive the machine's own crash, and not only that of a process.
        """
        line = json.dumps({"kind": kind, **fields}, default=float)
        os.write(self._descriptor, line.encode() + b"\n")
        if durable:
            os.fsync(self._descriptor)
        self.sweep.apply(json.loads(line))

    def close(self) -> None:
        os.fsync(self._descriptor)
        os.close(self._descriptor)


def read_ledger(path: Path) -> Sweep:
    """Where the sweep of a ledger stands. StageError where a line of it is none."""
    sweep = Sweep()
    for number, line in enumerate(read_whole_lines(path), start=1):
        try:
            sweep.apply(json.loads(line))
        except (ValueError, KeyError, TypeError, IndexError, AssertionError) as error:
            raise StageError(
                f"not a line of a sweep's ledger ({type(error).__name__}: {error})",
                where=f"{path}:{number}",
                hint="restore the file; or move it away, and finished trials are found again by their artifacts",
            ) from None
    return sweep


def read_whole_lines(path: Path) -> list[bytes]:
    """The lines that were written to their end."""
    if not path.exists():
        return []
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1].splitlines()
