"""What a person sees of a run: a live table on a terminal, plain lines elsewhere. Drawn from events only."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from rayml.observe.compress_table import print_compression
from rayml.observe.events import Event
from rayml.observe.lines import LINES, gate_line, metrics_line, trial_line
from rayml.observe.sweep import SweepLog, decision_text
from rayml.observe.sweep_table import SweepTable, clock, fill


def watch(console: Console, run: str, steps: list[str]) -> Watcher:
    """The view that fits the console."""
    return LiveWatcher(console, run, steps) if console.is_terminal else PlainWatcher(console, run)


class Watcher:
    """Takes events as they come; used as a context manager around the run."""

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *failure: object) -> None:
        pass

    def show(self, event: Event) -> None:
        """Take one event."""

    def tick(self) -> None:
        """Called a few times a second, events or not."""

    def stop(self) -> None:
        """Say that the run was asked to stop, which takes some seconds."""


class PlainWatcher(Watcher):
    """One line per thing that happened: for logs and pipes."""

    def __init__(self, console: Console, run: str) -> None:
        self._console = console
        self._told = 0.0
        self._sweep = SweepLog()
        console.print(f"run {run}", highlight=False)

    def show(self, event: Event) -> None:
        self._sweep.take(event)
        if event["kind"] == "trial_done" and event["trial"] in self._sweep.trials:
            self._say(f"{event['step']:>9}  {trial_line(self._sweep.trials[event['trial']], self._sweep.epochs)}")
        describe = LINES.get(event["kind"])
        if describe is None or (event["kind"] == "progress" and event["t"] - self._told < SILENCE_S):
            return
        self._told = event["t"]
        self._say(f"{event.get('step', ''):>9}  {describe(event)}")

    def stop(self) -> None:
        self._say(f"{'':>9}  stopping")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


SILENCE_S = 30.0
"""A log hears of an epoch that takes longer this often."""


@dataclass
class _Row:
    """What the live table knows of one step."""

    state: str = "waiting"
    detail: str = ""
    started: float | None = None
    """Unix time; of the attempt that runs now."""
    seconds: float | None = None
    training: _Training | None = None
    gates: list[str] = field(default_factory=list)


@dataclass
class _Training:
    """How far a training is, and how fast it goes: measured here, so that validation and checkpoints count."""

    first: tuple[float, float]
    """Unix time and share done of the first event of this attempt."""
    last: tuple[float, float]
    heading: str = ""
    numbers: dict[str, str] = field(default_factory=dict)
    """Name to value, in the order shown; a name that is already a unit comes after its value."""

    @property
    def share(self) -> float:
        return self.last[1]

    def seconds_left(self, now: float) -> float | None:
        """None until two events tell the pace."""
        seconds, share = self.last[0] - self.first[0], self.last[1] - self.first[1]
        if share <= 0:
            return None
        return max(0.0, seconds / share * (1 - self.last[1]) - max(0.0, now - self.last[0]))


class LiveWatcher(Watcher):
    """A table that is redrawn in place: one row a step, a bar and the time left while it trains."""

    def __init__(self, console: Console, run: str, steps: list[str]) -> None:
        self._rows = {name: _Row() for name in steps}
        self._run = run
        self._console = console
        self._now = self._started = time.time()
        self._stops = False
        self._marks = MARKS if console.encoding.startswith("utf") else ASCII_MARKS
        self._spinner = Spinner("dots" if self._marks is MARKS else "line", style="cyan")
        self._sweep = SweepTable(self._marks)
        self._live = Live(self._draw(), console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> Watcher:
        self._live.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        for row in self._rows.values():
            row.state = "stopped" if row.state == "running" else row.state
            row.training = None
        self._stops = False
        self._now = time.time()
        self._live.update(self._draw(), refresh=True)
        self._live.__exit__(None, None, None)

    def tick(self) -> None:
        self._now = time.time()
        self._live.update(self._draw())

    def stop(self) -> None:
        self._stops = True
        self._live.update(self._draw(), refresh=True)

    def show(self, event: Event) -> None:
        row = self._rows.get(event.get("step", ""))
        if row is None:
            return
        self._sweep.log.take(event)
        kind = event["kind"]
        if kind == "step_started":
            row.state, row.started, row.training = "running", event["t"], None
            row.detail = "" if event["attempt"] == 1 else f"attempt {event['attempt']}"
        elif kind == "step_cached":
            row.state, row.detail, row.started = "cached", event["reason"], None
        elif kind == "step_done":
            row.state, row.seconds, row.training = "done", event["seconds"], None
            row.detail = metrics_line(event)
        elif kind == "step_failed":
            row.state, row.training = "failed", None
            row.detail = event["error"]["what"].splitlines()[0]
        elif kind == "gate":
            row.gates.append(gate_line(event))
            row.state = row.state if event["passed"] else "failed"
        elif kind == "decided":
            row.detail = decision_text(event)
        elif kind in ("progress", "epoch"):
            _follow(row, event)
        elif kind in ("note", "retry", "rung"):
            if row.state == "waiting":
                row.state, row.started = "running", event["t"]
            row.detail, row.training = LINES[kind](event), None

    def _draw(self) -> RenderableType:
        names = list(self._rows)
        sweep = self._rows.get("tune")
        shows_sweep = sweep is not None and sweep.state == "running" and bool(self._sweep.log.state)
        until = names.index("tune") + 1 if shows_sweep else len(names)
        since = "stopping" if self._stops else clock(self._now - self._started)
        head = Text.assemble((f"run {self._run}", "bold"), (f"  {since}", "dim"))
        above, below = self._table(names[:until]), self._table(names[until:])
        if not shows_sweep:
            return Group(head, above)
        taken = 1 + sum(len(self._console.render_lines(part)) for part in (above, below))
        width, height = self._console.width - SWEEP_INDENT, self._console.height - taken - 1
        return Group(head, above, Padding(self._sweep.draw(width, height, self._now), (0, 0, 0, SWEEP_INDENT)), below)

    def _table(self, names: list[str]) -> Table:
        """The rows of some steps, under each other whatever stands between two such tables."""
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(width=8)
        table.add_column(width=8, justify="right")
        table.add_column(ratio=1)
        for name in names:
            row = self._rows[name]
            table.add_row(self._mark(row), Text(name, style=STYLES[row.state]), self._seconds(row), self._detail(row))
        return table

    def _mark(self, row: _Row) -> RenderableType:
        return self._spinner if row.state == "running" else Text(self._marks[row.state], style=STYLES[row.state])

    def _seconds(self, row: _Row) -> Text:
        running = row.state == "running" and row.started is not None
        seconds = self._now - (row.started or 0.0) if running else row.seconds
        return Text("" if seconds is None else f"{max(seconds, 0.0):.1f} s", style="dim")

    def _detail(self, row: _Row) -> RenderableType:
        failed = [gate for gate in row.gates if "NOT MET" in gate]
        if row.training is None:
            return Text("; ".join([*failed, row.detail]) if failed else row.detail, style="red" if failed else "")
        training, width = row.training, self._console.width - INDENT
        left = training.seconds_left(self._now)
        ending = "" if left is None else f"{clock(left)} left"
        room = min(40, width - len(training.heading) - len(ending) - 2)
        bar = [ProgressBar(total=1.0, completed=training.share, width=room)] if room >= SHORTEST_BAR else []
        line = Table.grid(padding=(0, 1))
        line.add_row(training.heading, *bar, ending)
        return Group(line, Text("\n".join(fill(list(training.numbers.values()), width)), style="dim"))


SHORTEST_BAR = 8
INDENT = 20
"""Columns before the details: the mark, the step and its seconds."""
SWEEP_INDENT = 2
MARKS = {"waiting": "·", "running": "●", "done": "✓", "cached": "≡", "failed": "✗", "stopped": "■"}
MARKS |= {"unfinished": "◌", "front": "◆", "cut": "…"}
ASCII_MARKS = {"waiting": ".", "running": "*", "done": "+", "cached": "=", "failed": "x", "stopped": "-"}
ASCII_MARKS |= {"unfinished": "~", "front": ">", "cut": "~"}
STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "cached": "blue", "failed": "red", "stopped": "yellow"}


def _follow(row: _Row, event: Event) -> None:
    """Take an epoch that ended, or a sign of life from the middle of one."""
    whole = event["kind"] == "epoch"
    share = (event["epoch"] if whole else event["epoch"] - 1 + event["batch"] / event["batches"]) / event["epochs"]
    now = (event["t"], share)
    training = row.training = row.training or _Training(now, now)
    training.last = now
    training.heading = f"epoch {event['epoch']}/{event['epochs']}"
    loss = event["train/loss"] if whole else event["loss"]
    training.numbers["loss"] = f"loss {loss:.4f}"
    if whole:
        training.numbers.update({name: f"{name} {event[name]:.4f}" for name in ("val/loss", "val/accuracy")})
    else:
        training.heading += f" step {event['batch']}/{event['batches']}"
    training.numbers.pop("speed", None)
    training.numbers["speed"] = f"{event['samples_per_s']:,.0f} samples/s"


def conclude(console: Console, result: dict[str, Any]) -> None:
    """The last lines of a run: compression, the verified prediction, where the report is, or how to go on."""
    print_compression(console, result.get("artifacts", {}).get("compress"))
    example = result["endpoint"].get("example")
    if result["status"] == "done" and example:
        answered = "the compressed model" if "compress" in result.get("artifacts", {}) else "the checkpoint"
        sentence = Text.assemble(
            ("verified", "green"),
            f" the endpoint answers as {answered} does: sample {example['sample_id']} is ",
            (example["label"], "bold"),
            f" with probability {example['probability']:.4f}",
        )
        console.print(sentence, soft_wrap=True)
    if result["report"]:
        console.print(f"report   {result['report']}", highlight=False, markup=False, soft_wrap=True)
