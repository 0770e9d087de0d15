"""What a person sees of a run: a live table on a terminal, plain lines elsewhere. Drawn from events only."""

from __future__ import annotations

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


class PlainWatcher(Watcher):
    """One line per thing that happened: for logs and pipes."""

    def __init__(self, console: Console, run: str) -> None:
        self._console = console
        console.print(f"run {run}", highlight=False)

    def show(self, event: Event) -> None:
        describe = LINES.get(event["kind"])
        if describe is None:
            return
        text = describe(event)
        if text:
            self._console.print(f"{event.get('step', ''):>9}  {text}", highlight=False, markup=False, soft_wrap=True)


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
        f"epoch {event['epoch']:.0f}: train/loss {event['train/loss']:.4f}, val/loss {event['val/loss']:.4f}, "
        f"val/accuracy {event['val/accuracy']:.4f}, {event['samples_per_s']:,.0f} samples/s"
    )


def _gate(event: Event) -> str:
    verdict = "passed" if event["passed"] else "NOT MET"
    return f"gate {event['metric']} {event['bound']}: {event['value']:.6g}, {verdict}"


def _started(event: Event) -> str:
    return "starts" if event["attempt"] == 1 else f"starts again (attempt {event['attempt']})"


LINES: dict[str, Callable[[Event], str]] = {
    "step_cached": lambda event: f"cached, {event['reason']}",
    "step_started": _started,
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
    started: float = 0.0
    seconds: float | None = None
    share: float | None = None
    gates: list[str] = field(default_factory=list)


class LiveWatcher(Watcher):
    """A table that is redrawn in place: one row a step, a bar and the time left while it trains."""

    def __init__(self, console: Console, run: str, steps: list[str]) -> None:
        self._rows = {name: _Row() for name in steps}
        self._run = run
        self._now = 0.0
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(self._draw(), console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> Watcher:
        self._live.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.update(self._draw(), refresh=True)
        self._live.__exit__(None, None, None)

    def tick(self) -> None:
        import time

        self._now = time.time()
        self._live.update(self._draw())

    def show(self, event: Event) -> None:
        row = self._rows.get(event.get("step", ""))
        if row is None:
            return
        kind = event["kind"]
        if kind == "step_started":
            row.state, row.started, row.share = "running", event["t"], None
            row.detail = "" if event["attempt"] == 1 else f"attempt {event['attempt']}"
        elif kind == "step_cached":
            row.state, row.detail = "cached", event["reason"]
        elif kind == "step_done":
            row.state, row.seconds, row.share = "done", event["seconds"], None
            row.detail = _metrics(event)
        elif kind == "step_failed":
            row.state, row.share = "failed", None
            row.detail = event["error"]["what"].splitlines()[0]
        elif kind == "gate":
            row.gates.append(_gate(event))
            row.state = row.state if event["passed"] else "failed"
        elif kind in ("progress", "epoch", "note", "retry"):
            self._follow(row, event)

    def _follow(self, row: _Row, event: Event) -> None:
        if event["kind"] == "progress":
            row.share = (event["epoch"] - 1 + event["batch"] / event["batches"]) / event["epochs"]
            row.detail = (
                f"epoch {event['epoch']}/{event['epochs']} step {event['batch']}/{event['batches']}  "
                f"loss {event['loss']:.4f}  {event['samples_per_s']:,.0f} samples/s  {_clock(event['eta_s'])} left"
            )
        elif event["kind"] == "epoch":
            row.detail = _epoch(event)
        else:
            row.detail = LINES[event["kind"]](event)

    def _draw(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=2)
        table.add_column(width=9)
        table.add_column(width=7, justify="right")
        table.add_column(ratio=1)
        for name, row in self._rows.items():
            table.add_row(self._mark(row), Text(name, style=STYLES[row.state]), self._seconds(row), self._detail(row))
        return Group(Text(f"run {self._run}", style="bold"), table)

    def _mark(self, row: _Row) -> RenderableType:
        return self._spinner if row.state == "running" else Text(MARKS[row.state], style=STYLES[row.state])

    def _seconds(self, row: _Row) -> Text:
        seconds = self._now - row.started if row.state == "running" and self._now else row.seconds
        return Text("" if seconds is None else f"{max(seconds, 0.0):.1f} s", style="dim")

    def _detail(self, row: _Row) -> RenderableType:
        failed = [gate for gate in row.gates if "NOT MET" in gate]
        text = Text("; ".join([*failed, row.detail]) if failed else row.detail, style="red" if failed else "")
        if row.share is None:
            return text
        return Group(ProgressBar(total=1.0, completed=row.share, width=40), text)


MARKS = {"waiting": "·", "running": "●", "done": "✓", "cached": "≡", "failed": "✗"}
STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "cached": "blue", "failed": "red"}


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def conclude(console: Console, result: dict[str, Any]) -> None:
    """The last lines of a run: the verified prediction, where the report is, or how to go on."""
    example = result["endpoint"].get("example")
    if result["status"] == "done" and example:
        console.print(
            f"[green]verified[/] the endpoint answers as the checkpoint does: sample {example['sample_id']} is "
            f"[bold]{example['label']}[/] with probability {example['probability']:.4f}",
            highlight=False,
        )
    if result["report"]:
        console.print(f"report   {result['report']}", highlight=False, soft_wrap=True)
