"""Before and after a compression on a terminal: each rung's size and latency as bars, and what the answers lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

COMPRESS_FILE = "compress.json"
UNCOMPRESSED = "uncompressed"
GAP = 2
"""Columns between two of the table."""
SHORTEST_BAR, GOOD_BAR, LONGEST_BAR = 4, 6, 16
EIGHTHS = "▏▎▍▌▋▊▉█"
UNICODE = {"chosen": "◆", "kept": "✓", "rolled back": "✗", "refused": "✗"}
ASCII = {"chosen": ">", "kept": "+", "rolled back": "x", "refused": "x"}
STYLES = {"chosen": "bold green", "rolled back": "dim", "refused": "dim"}
BEST = {"size": "smallest", "latency": "fastest"}

COLUMNS = {
    "mark": "",
    "name": "before / after",
    "size": "size",
    "smaller": "",
    "latency": "latency",
    "faster": "",
    "p95": "p95",
    "accuracy": "accuracy",
    "agrees": "agrees",
}
"""Name and title, from left to right."""
TEXTS = ("mark", "name", "size", "latency")
"""Columns that begin at their left edge."""
DROPPED_FIRST = ("agrees", "faster", "smaller", "latency")
"""What a terminal does without that is too narrow even without bars."""

Row = dict[str, str]
"""Name of a column to what stands in it."""


def print_compression(console: Console, artifact: str | None) -> None:
    """The table of what compress left in a folder; nothing where the job has no such step, or it left nothing."""
    path = Path(artifact) / COMPRESS_FILE if artifact else None
    if path is not None and path.is_file():
        document = json.loads(path.read_text(encoding="utf-8"))
        console.print(before_after(document, console.width, is_unicode=console.encoding.startswith("utf")))


def before_after(document: dict[str, Any], width: int, *, is_unicode: bool) -> RenderableType:
    """A row for each rung, the uncompressed model first, and below it what became of them.

    Args:
        document: what compress.json holds.
        width: columns of the terminal.
        is_unicode: whether it shows other letters than those of ASCII.
    """
    rungs, marks = document["rungs"], UNICODE if is_unicode else ASCII
    whole = rungs[0]["row"]
    states = ["chosen" if rung["name"] == document["chosen"] else rung["status"] for rung in rungs]
    rows = [cells_of(rung, whole, marks[state]) for rung, state in zip(rungs, states, strict=True)]
    names = fitting(rows, width)
    bar = bar_length(rows, names, width)
    table = Table.grid(padding=(0, GAP, 0, 0))
    for name in names:
        table.add_column(justify="left" if name in TEXTS else "right", no_wrap=True, overflow="crop")
    table.add_row(*(Text(COLUMNS[name], style="dim") for name in names))
    for rung, row, state in zip(rungs, rows, states, strict=True):
        shares = shares_of(rung["row"], whole) if bar >= SHORTEST_BAR else {}
        bars = {name: draw_bar(share, bar, is_unicode=is_unicode) + " " for name, share in shares.items()}
        style = STYLES.get(state, "")
        color = style if state in ("rolled back", "refused") else "cyan"
        table.add_row(*(Text.assemble((bars.get(name, ""), color), (row[name], style)) for name in names))
    return Group(table, remarks(document, states, marks))


def cells_of(rung: dict[str, Any], whole: dict[str, Any], mark: str) -> Row:
    """What stands in each column, without bars."""
    row, is_whole = rung["row"], rung["name"] == UNCOMPRESSED
    single = row["latency"]["1x1"]
    difference = f"{-row['accuracy']['drop']:+.4f}".replace("-0.0000", "+0.0000")
    return {
        "mark": mark,
        "name": rung["name"],
        "size": f"{size_text(row['bytes']):>7}",
        "smaller": "" if is_whole else times_text(whole["bytes"] / row["bytes"]),
        "latency": f"{time_text(single['p50_ms']):>8}",
        "faster": "" if is_whole else times_text(single["ratio"]),
        "p95": time_text(single["p95_ms"]),
        "accuracy": f"{row['accuracy']['value']:.4f}" if is_whole else difference,
        "agrees": "-" if is_whole else f"{100 * row['agreement']['value']:.1f} %",
    }


def size_text(count: float) -> str:
    """`18.1 kB`, `214 kB`, `1.42 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def time_text(milliseconds: float) -> str:
    """`0.041 ms`, `14.2 ms`, `1.35 s`."""
    if milliseconds >= 999.5:
        return f"{milliseconds / 1000:.3g} s"
    return f"{milliseconds:.3f} ms" if milliseconds < 1 else f"{milliseconds:.3g} ms"


def times_text(ratio: float) -> str:
    """`12x`, `5.1x`, `0.93x`."""
    return f"{ratio:,.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x" if ratio >= 0.995 else f"{ratio:.2f}x"


def fitting(rows: Sequence[Row], width: int) -> list[str]:
    """The columns that are drawn. Bars are worth more than the 95th percentile, and less than any other number."""
    names = list(COLUMNS)
    if bar_length(rows, names, width) < GOOD_BAR:
        names.remove("p95")
    for name in DROPPED_FIRST:
        if needs(rows, names) > width:
            names.remove(name)
    return names


def needs(rows: Sequence[Row], names: Sequence[str]) -> int:
    """Terminal columns of the table without bars."""
    return sum(max(len(COLUMNS[name]), *(len(row[name]) for row in rows)) for name in names) + GAP * (len(names) - 1)


def bar_length(rows: Sequence[Row], names: Sequence[str], width: int) -> int:
    """What is left for each of the two bars, with a blank after it."""
    return min(LONGEST_BAR, (width - needs(rows, names)) // 2 - 1)


def shares_of(row: dict[str, Any], whole: dict[str, Any]) -> dict[str, float]:
    """Of the uncompressed model's size and latency."""
    latency, before = (each["latency"]["1x1"]["p50_ms"] for each in (row, whole))
    return {"size": row["bytes"] / whole["bytes"], "latency": latency / before}


def draw_bar(share: float, length: int, *, is_unicode: bool) -> str:
    """A bar of that share of a length, in eighths of a column where the terminal has them; never nothing."""
    share = min(max(share, 0.0), 1.0)
    if not is_unicode:
        return ("#" * max(1, round(share * length))).ljust(length)
    full, rest = divmod(max(1, round(share * length * len(EIGHTHS))), len(EIGHTHS))
    return (EIGHTHS[-1] * full + (EIGHTHS[rest - 1] if rest else "")).ljust(length)


def remarks(document: dict[str, Any], states: Sequence[str], marks: dict[str, str]) -> Table:
    """Why the chosen rung was, and why others are no part of it."""
    said: list[tuple[str, str]] = []
    for rung, state in zip(document["rungs"], states, strict=True):
        if state == "chosen":
            said.insert(0, (state, f"{rung['name']} goes on: the {BEST[document['prefer']]} inside the budget"))
        elif state != "kept":
            said.append((state, f"{rung['name']} {state}: {rung['why']}"))
    table = Table.grid(padding=(0, GAP, 0, 0))
    for state, sentence in said:
        table.add_row(Text(marks[state], style="dim"), Text(sentence, style="dim"))
    return table
