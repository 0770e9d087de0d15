"""What `rayml tune` prints: a plot or a table, what it means, and the line to type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH, HEIGHT = 64, 14
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character, by row and column of its 4 x 2 dots."""
BLANK = 0x2800
CEILING = 1.5
"""Times the loss at the beginning: what rises above it is drawn at the upper edge."""
MIB = 2**20


def show_lr_range(console: Console, job: str, found: dict[str, Any]) -> None:
    """The smoothed loss over the learning rate, and which one to take."""
    points, suggestion = found["points"], found["suggestion"]
    if len(points) > 1:
        console.print(
            f"loss over the learning rate, {len(points)} steps of {found['batch_size']} rows", highlight=False
        )
        for line in plot(points, None if suggestion is None else suggestion["steepest"]):
            console.print(line, highlight=False, markup=False, no_wrap=True)
    console.print(f"ended: {found['ended']}", highlight=False)
    if suggestion is None:
        console.print(
            "the loss does not fall anywhere: try a lower --from, a higher --to or more --steps", style="yellow"
        )
        return
    console.print(f"falls fastest at {suggestion['steepest']:.2g}, least at {suggestion['least']:.2g}", highlight=False)
    if found["diverged"]:
        console.print(f"diverges at {points[-1]['lr']:.2g}", highlight=False)
    console.print(f"\nrayml run {job} --set train.optimizer.lr={suggestion['lr']:g}", style="bold", highlight=False)


def plot(points: Sequence[dict[str, float]], marked: float | None) -> list[str]:
    """Lines of text: the smoothed loss as braille dots, its range on the left, learning rates below."""
    losses = [min(point["smooth"], CEILING * points[0]["smooth"]) for point in points]
    low, high = min(losses), max(losses)
    first, last = math.log(points[0]["lr"]), math.log(points[-1]["lr"])
    cells, before = [[BLANK] * WIDTH for _ in range(HEIGHT)], 0
    for column in range(2 * WIDTH):
        loss = at(losses, column / (2 * WIDTH - 1))
        row = round((4 * HEIGHT - 1) * (high - loss) / ((high - low) or 1))
        before = row if column == 0 else before
        # Down to the dot of the column before, so that a steep part is a line too.
        for dot in range(min(row, before + 1), max(row, before - 1) + 1):
            cells[dot // 4][column // 2] |= DOTS[dot % 4][column % 2]
        before = row
    lines = []
    for number, row_cells in enumerate(cells):
        label = {0: f"{high:.3g}", HEIGHT - 1: f"{low:.3g}"}.get(number, "")
        lines.append(f"{label:>8} |" + "".join(map(chr, row_cells)))
    mark = None if marked is None else round((WIDTH - 1) * (math.log(marked) - first) / ((last - first) or 1))
    lines.append(" " * 9 + "+" + "".join("^" if place == mark else "-" for place in range(WIDTH)))
    left, right = f"{points[0]['lr']:.1e}", f"{points[-1]['lr']:.1e}"
    lines.append(" " * 10 + left + right.rjust(WIDTH - len(left)))
    return lines


def at(values: Sequence[float], share: float) -> float:
    """The value at a share of the way from the first to the last."""
    place = share * (len(values) - 1)
    below = min(int(place), len(values) - 2)
    return values[below] + (place - below) * (values[below + 1] - values[below])


def show_batch_range(console: Console, job: str, found: dict[str, Any]) -> None:
    """A row for each size of a micro-batch, and how to divide the job's batch."""
    suggestion, best = found["suggestion"], 0.0
    table = Table("rows", "samples/s", "step", "memory", "gain", box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for row in found["table"]:
        gain = f"{row['samples_per_s'] / best:.2f}x" if best else ""
        cells = (f"{row['rows']:,}", f"{row['samples_per_s']:,.0f}", f"{row['step_ms']:.2f} ms")
        knee = row["rows"] == suggestion["knee"]
        table.add_row(*cells, f"{row['memory'] / MIB:,.0f} MiB", gain, style="bold" if knee else None)
        best = row["samples_per_s"]
    console.print(table)
    console.print(f"ended: {found['ended']}", highlight=False)
    console.print(f"from {suggestion['knee']} rows on, more bring less than 5 %", highlight=False)
    data, batch_size = found["data"], found["batch_size"]
    if suggestion["accumulation"] is None:
        console.print(f"no division of batch_size {batch_size} was measured", style="yellow", highlight=False)
        return
    division = f"batch_size {batch_size} = {data} x {suggestion['accumulation']} x {suggestion['rows']} rows"
    if suggestion["accumulation"] == found["accumulation"]:
        console.print(f"{division}: as the job has it, nothing is faster", highlight=False)
    else:
        gain = "" if suggestion["gain"] is None else f", {suggestion['gain']:.2f}x"
        console.print(f"{division}: faster{gain}", highlight=False)
        line = f"rayml run {job} --set train.accumulation={suggestion['accumulation']}"
        console.print(f"\n{line}", style="bold", highlight=False)
    larger = suggestion["knee"] * data
    if larger > batch_size:
        text = f"batch_size {larger:,} would be faster, and is another training: find its learning rate with --lr-range"
        console.print(text, highlight=False)
