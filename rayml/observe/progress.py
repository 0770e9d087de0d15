"""What a person sees of a run: a live table on a terminal, plain lines elsewhere. Drawn from events only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from rayml.observe.events import Event


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
        console.print(f"run {run}", highlight=False)

    def show(self, event: Event) -> None:
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


def _metrics(event: Event) -> str:
    step, metrics = event["step"], event.get("metrics", {})
    if step == "data":
        return f"{metrics['rows']:,.0f} rows, {metrics['classes']:.0f} classes"
    if step == "train":
        best = f"val/accuracy {metrics['val/accuracy']:.4f} at epoch {metrics['best_epoch']:.0f}"
        return f"{best}, {metrics['samples_per_s']:,.0f} samples/s"
    if step == "export":
        difference = f"differs from torch by at most {metrics['parity_max_abs_diff']:.1e}"
        return f"{metrics['size_bytes'] / 1000:,.0f} kB, {difference}"
    if step == "evaluate":
        return f"accuracy {metrics['accuracy']:.4f}, f1_macro {metrics['f1_macro']:.4f}"
    if step == "serve":
        return (
            f"endpoint differs from the checkpoint by at most {metrics['parity_max_abs_diff']:.1e}, "
            f"p50 {metrics['latency_p50_ms']:.1f} ms"
        )
    return ""


def _epoch(event: Event) -> str:
    return (
        f"epoch {event['epoch']}/{event['epochs']}: train/loss {event['train/loss']:.4f}, "
        f"val/loss {event['val/loss']:.4f}, val/accuracy {event['val/accuracy']:.4f}, "
        f"{event['samples_per_s']:,.0f} samples/s"
    )


def _progress(event: Event) -> str:
    return (
        f"epoch {event['epoch']}/{event['epochs']}, step {event['batch']}/{event['batches']}: "
        f"loss {event['loss']:.4f}, {event['samples_per_s']:,.0f} samples/s"
    )


def _gate(event: Event) -> str:
    verdict = "passed" if event["passed"] else "NOT MET"
    return f"gate {event['metric']} {event['bound']}: {event['value']:.6g}, {verdict}"


def _started(event: Event) -> str:
    return "starts" if event["attempt"] == 1 else f"starts again (attempt {event['attempt']})"


LINES: dict[str, Callable[[Event], str]] = {
    "step_cached": lambda event: f"cached, {event['reason']}",
    "step_started": _started,
    "progress": _progress,
    "epoch": _epoch,
    "note": lambda event: str(event["text"]),
    "retry": lambda event: f"failed and is tried again: {event['reason'].splitlines()[0]}",
    "step_done": lambda event: f"done in {event['seconds']:.1f} s: {_metrics(event)}",
    "gate": _gate,
}


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
        kind = event["kind"]
        if kind == "step_started":
            row.state, row.started, row.training = "running", event["t"], None
            row.detail = "" if event["attempt"] == 1 else f"attempt {event['attempt']}"
        elif kind == "step_cached":
            row.state, row.detail, row.started = "cached", event["reason"], None
        elif kind == "step_done":
            row.state, row.seconds, row.training = "done", event["seconds"], None
            row.detail = _metrics(event)
        elif kind == "step_failed":
            row.state, row.training = "failed", None
            row.detail = event["error"]["what"].splitlines()[0]
        elif kind == "gate":
            row.gates.append(_gate(event))
            row.state = row.state if event["passed"] else "failed"
        elif kind in ("progress", "epoch"):
            _follow(row, event)
        elif kind in ("note", "retry"):
            if row.state == "waiting":
                row.state, row.started = "running", event["t"]
            row.detail, row.training = LINES[kind](event), None

    def _draw(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(width=8)
        table.add_column(width=8, justify="right")
        table.add_column(ratio=1)
        for name, row in self._rows.items():
            table.add_row(self._mark(row), Text(name, style=STYLES[row.state]), self._seconds(row), self._detail(row))
        clock = "stopping" if self._stops else _clock(self._now - self._started)
        return Group(Text.assemble((f"run {self._run}", "bold"), (f"  {clock}", "dim")), table)

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
        ending = "" if left is None else f"{_clock(left)} left"
        room = min(40, width - len(training.heading) - len(ending) - 2)
        bar = [ProgressBar(total=1.0, completed=training.share, width=room)] if room >= SHORTEST_BAR else []
        line = Table.grid(padding=(0, 1))
        line.add_row(training.heading, *bar, ending)
        return Group(line, Text("\n".join(_fill(list(training.numbers.values()), width)), style="dim"))


SHORTEST_BAR = 8
INDENT = 20
"""Columns before the details: the mark, the step and its seconds."""
MARKS = {"waiting": "·", "running": "●", "done": "✓", "cached": "≡", "failed": "✗", "stopped": "■"}
ASCII_MARKS = {"waiting": ".", "running": "*", "done": "+", "cached": "=", "failed": "x", "stopped": "-"}
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


def _fill(parts: list[str], width: int) -> list[str]:
    """Lines of at most `width` columns; no part is broken."""
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}  {part}" if lines[-1] else part
        if lines[-1] and len(longer) > width:
            lines.append(part)
        else:
            lines[-1] = longer
    return lines


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def conclude(console: Console, result: dict[str, Any]) -> None:
    """The last lines of a run: the verified prediction, where the report is, or how to go on."""
    example = result["endpoint"].get("example")
    if result["status"] == "done" and example:
        sentence = Text.assemble(
            ("verified", "green"),
            f" the endpoint answers as the checkpoint does: sample {example['sample_id']} is ",
            (example["label"], "bold"),
            f" with probability {example['probability']:.4f}",
        )
        console.print(sentence, soft_wrap=True)
    if result["report"]:
        console.print(f"report   {result['report']}", highlight=False, markup=False, soft_wrap=True)
