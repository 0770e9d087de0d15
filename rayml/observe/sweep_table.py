"""The live table of a sweep: what is left of the budget, and the trials, best first, as many as the terminal holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rayml.observe.sweep import SweepLog, Trial, best_first, error_line, metric_text, short_names, value_text

GAP = 2
"""Columns between two of the table."""
WIDEST_VALUE = 24
NARROW = 72
"""Below this width a status is its mark alone."""
NARROWEST_REASON = 14
ENDED = ("done", "stopped", "failed")
FEWEST_ROWS = 3
"""Trials that are shown on a terminal of any height."""
STYLES = {"running": "cyan", "done": "green", "stopped": "yellow", "failed": "red", "unfinished": "dim"}


@dataclass(frozen=True)
class _Column:
    """A column that may be drawn: what stands in it, and when it has to go."""

    title: str
    cell: Callable[[Trial], Text]
    weight: int
    """The column of the least weight is dropped first."""
    is_left: bool = False
    is_sentence: bool = False
    """Whether it may be cut, so that it needs little."""


class SweepTable:
    """Takes events; draws what fits into a width and a height."""

    def __init__(self, marks: Mapping[str, str]) -> None:
        self.log = SweepLog()
        self._marks = marks

    def draw(self, width: int, height: int, now: float) -> RenderableType:
        """At most `height` lines, or the fewest rows on a terminal that is too low."""
        lines = fill(self._budget(now), width, ", ") + fill(self._cluster(), width, ", ")
        head = Text("\n".join(line for line in lines if line), style="dim")
        if not self.log.trials:
            return head
        trials = best_first(self.log.trials.values(), self.log.objectives, self.log.front)
        room = max(FEWEST_ROWS, height - len(lines) - 1)
        shown = trials if len(trials) <= room else trials[: max(FEWEST_ROWS, room - 1)]
        parts: list[RenderableType] = [head, self._table(shown, width)]
        if len(shown) < len(trials):
            parts.append(Text(self._rest(trials[len(shown) :]), style="dim"))
        return Group(*parts)

    def _budget(self, now: float) -> list[str]:
        """What is left of each limit; what was spent, where the limit is of another kind."""
        state = self.log.state
        if not state:
            return []
        budget, spent = state["budget"], state["spent"]
        wall = spent["wall_s"] + (0.0 if state.get("ended") else max(0.0, now - state["t"]))
        most = budget.get("trials")
        ended = sum(state[name] for name in ENDED)
        said = [f"trials {ended} of {most}" if most else f"trials {ended}"]
        if budget.get("wall_s"):
            said.append(f"wall {clock(max(0.0, budget['wall_s'] - wall))} left")
        for name, word in (("cpu_hours", "CPU-hours"), ("gpu_hours", "GPU-hours"), ("money", "money")):
            if budget.get(name):
                said.append(f"{word} {spent[name] or 0.0:.2f} of {budget[name]:g}")
            elif spent.get(name):
                said.append(f"{word} {spent[name]:.2f}")
        return said

    def _cluster(self) -> list[str]:
        """How many trials run and wait, and on what."""
        state = self.log.state
        if not state:
            return []
        counts = [f"{state[name]} {name}" for name in ("running", "waiting", "done", "stopped", "failed")]
        counts.append("1 node" if state["nodes"] == 1 else f"{state['nodes']} nodes")
        counts.append(f"{state['cpus']:g} CPUs")
        return [text for text in counts if not text.startswith("0 ")]

    def _rest(self, trials: list[Trial]) -> str:
        running = sum(trial["status"] == "running" for trial in trials)
        return f"and {len(trials)} more" + (f", {running} of them running" if running else "")

    def _table(self, trials: list[Trial], width: int) -> Table:
        columns = [(column, [column.cell(trial) for trial in trials]) for column in self._columns(trials, width)]
        columns = [(column, cells) for column, cells in columns if any(cell.plain for cell in cells)]
        while needs(columns) > width and len(columns) > 1:
            columns.remove(min(columns, key=lambda each: each[0].weight))
        if columns[-1][0].is_sentence:
            room = width - needs(columns[:-1]) - GAP
            columns[-1] = (columns[-1][0], [Text(self._cut(cell.plain, room), style="dim") for cell in columns[-1][1]])
        table = Table.grid(padding=(0, GAP, 0, 0))
        for column, _ in columns:
            justify = "left" if column.is_left else "right"
            table.add_column(justify=justify, no_wrap=True, overflow="crop")  # type: ignore[arg-type]
        table.add_row(*(Text(column.title, style="dim") for column, _ in columns))
        for row in zip(*(cells for _, cells in columns), strict=True):
            table.add_row(*row)
        return table

    def _columns(self, trials: list[Trial], width: int) -> list[_Column]:
        """All of them, from left to right. What is dropped first: seconds, reasons, the last of the searched keys."""
        log = self.log
        paths = list(dict.fromkeys(path for trial in log.trials.values() for path in trial["point"]))
        names, metrics = short_names(paths), [objective["metric"] for objective in log.objectives]
        failed = any(trial["status"] == "failed" for trial in trials)
        columns = [
            _Column("trial", self._number, 99),
            _Column("", self._mark if width < NARROW else self._status, 98, is_left=True),
            _Column("epoch", self._epoch, 96),
        ]
        columns += [_Column(metric, _metric_cell(metric), 97 - 7 * place) for place, metric in enumerate(metrics)]
        columns.append(_Column("time", _seconds, 0))
        columns += [_Column(self._cut(names[path]), self._value(path), 80 - place) for place, path in enumerate(paths)]
        # An error is worth more than a third key; a rung is said by the epoch already.
        columns.append(_Column("", self._why, 79 if failed else 1, is_left=True, is_sentence=True))
        return columns

    def _number(self, trial: Trial) -> Text:
        on_front = len(self.log.objectives) > 1 and trial["number"] in self.log.front
        mark = f"{self._marks['front']} " if on_front else ""
        return Text(f"{mark}{trial['number']}", style="bold" if on_front else "")

    def _mark(self, trial: Trial) -> Text:
        return Text(self._marks[trial["status"]], style=STYLES[trial["status"]])

    def _status(self, trial: Trial) -> Text:
        status = trial["status"]
        return Text(f"{self._marks[status]} {status}", style=STYLES[status])

    def _epoch(self, trial: Trial) -> Text:
        last = trial["epochs"][-1]["epoch"] if trial["epochs"] else 0
        return Text(f"{last}/{self.log.epochs}" if self.log.epochs else "")

    def _value(self, path: str) -> Callable[[Trial], Text]:
        return lambda trial: Text(self._cut(value_text(trial["point"][path])) if path in trial["point"] else "")

    def _cut(self, text: str, most: int = WIDEST_VALUE) -> str:
        return text if len(text) <= most else text[: most - 1] + self._marks["cut"]

    def _why(self, trial: Trial) -> Text:
        """Why it was stopped, or how it failed."""
        return Text(error_line(trial["error"] or "") or trial["reason"], style="dim")


def _metric_cell(metric: str) -> Callable[[Trial], Text]:
    return lambda trial: Text(metric_text(metric, trial["values"].get(metric)) if trial["values"] else "")


def _seconds(trial: Trial) -> Text:
    return Text("" if trial["seconds"] is None else f"{trial['seconds']:.1f} s", style="dim")


def needs(columns: list[tuple[_Column, list[Text]]]) -> int:
    """Terminal columns that a table needs. The last one, a sentence, may be cut."""
    widths = [max(len(column.title), *(cell.cell_len for cell in cells)) for column, cells in columns]
    if columns[-1][0].is_sentence:
        widths[-1] = min(widths[-1], NARROWEST_REASON)
    return sum(widths) + GAP * (len(columns) - 1)


def fill(parts: list[str], width: int, between: str = "  ") -> list[str]:
    """Lines of at most `width` columns; no part is broken."""
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}{between}{part}" if lines[-1] else part
        if lines[-1] and len(longer) > width:
            lines.append(part)
        else:
            lines[-1] = longer
    return lines


def clock(seconds: float) -> str:
    """`3:07`, `1:02:45`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
