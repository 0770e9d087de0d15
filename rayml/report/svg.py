"""Drawings for the report as inline SVG. Colors come from the page's style sheet, so both color schemes fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

Point = tuple[float, float]

WIDTH, HEIGHT = 440, 236
LEFT, RIGHT, TOP, BOTTOM = 40, 44, 24, 26

ROOMY_STEPS = 5
"""More steps than this stand closer, so that they fit across the page."""


@dataclass(frozen=True)
class Line:
    """One curve. `style` is the class that colors it."""

    name: str
    style: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Mark:
    """A point worth a name."""

    x: float
    y: float | None
    text: str


def line_chart(title: str, lines: Sequence[Line], *, zero: bool, mark: Mark | None) -> Markup:
    """Curves over epochs, each named at its end. `zero` starts the vertical axis at 0."""
    values = [y for line in lines for _, y in line.points]
    epochs = [x for line in lines for x, _ in line.points]
    ticks = nice_ticks(0.0 if zero else min(values), max(values))
    first, last = min(epochs), max(epochs)

    def place(x: float, y: float) -> Point:
        across = 0.5 if last == first else (x - first) / (last - first)
        up = (y - ticks[0]) / (ticks[-1] - ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [Markup('<svg class="chart" viewBox="0 0 {} {}" role="img"><title>{}</title>').format(WIDTH, HEIGHT, title)]
    parts += [_horizontal(place(first, tick)[1], tick_text(tick, ticks)) for tick in ticks]
    parts += [_epoch(place(epoch, ticks[0])[0], epoch) for epoch in epoch_ticks(int(first), int(last))]
    if mark is not None:
        parts.append(_marked(place(mark.x, ticks[0])[0], mark.text))
    for line in lines:
        parts.append(_curve(line, [place(x, y) for x, y in line.points]))
    heights = spread([place(*line.points[-1])[1] for line in lines], 14)
    for line, height in zip(lines, heights, strict=True):
        x = place(*line.points[-1])[0] + 8
        parts.append(
            Markup('<text class="name {}" x="{:.1f}" y="{:.1f}">{}</text>').format(line.style, x, height + 4, line.name)
        )
    if mark is not None and mark.y is not None:
        parts.append(Markup('<circle class="best" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(*place(mark.x, mark.y)))
    return Markup("").join([*parts, Markup("</svg>")])


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from below `low` to above `high`, at least two."""
    if high - low < 1e-12:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    raw = (high - low) / (wanted - 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(start, stop + 1)]


def tick_text(tick: float, ticks: Sequence[float]) -> str:
    """A tick with as many digits as tell it from its neighbor."""
    step = ticks[1] - ticks[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += round(step * 10**digits, 6) % 1 > 0
    return f"{tick:.{digits}f}"


def epoch_ticks(first: int, last: int, most: int = 8) -> list[int]:
    """Whole epochs, the first one and then round ones."""
    step = next(
        step * 10**power for power in range(12) for step in (1, 2, 5) if (last - first) / (step * 10**power) <= most
    )
    return [first, *(epoch for epoch in range(first + 1, last + 1) if epoch % step == 0)]


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved apart until names of that height do not overlap."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = list(heights)
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + gap)
    return placed


def _horizontal(y: float, text: str) -> Markup:
    return Markup(
        '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
        '<text class="tick end" x="{3}" y="{4:.1f}">{5}</text>'
    ).format(LEFT, WIDTH - RIGHT, y, LEFT - 8, y + 4, text)


def _epoch(x: float, epoch: int) -> Markup:
    return Markup('<text class="tick middle" x="{:.1f}" y="{}">{}</text>').format(x, HEIGHT - 6, epoch)


def _marked(x: float, text: str) -> Markup:
    side = "end" if x > WIDTH / 2 else "start"
    return Markup(
        '<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
        '<text class="tick {3}" x="{4:.1f}" y="{5}">{6}</text>'
    ).format(x, TOP - 8, HEIGHT - BOTTOM, side, x + (-6 if side == "end" else 6), TOP - 8, text)


def _curve(line: Line, points: Sequence[Point]) -> Markup:
    if len(points) == 1:
        return Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(line.style, *points[0])
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return Markup('<path class="line {}" d="{}"/>').format(line.style, path)


def confusion_map(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> Markup:
    """The matrix for more classes than a table can show: a square per cell that is not empty, named on hover."""
    cell, margin = 8, 8 + 4 * max(min(len(name), 14) for name in classes)
    side = margin + cell * len(classes) + 4
    parts = [
        Markup('<svg class="map" viewBox="0 0 {0} {0}" width="{0}" role="img"><title>{1}</title>').format(
            side, f"Confusion matrix of {len(classes)} classes; rows are true classes, columns are predictions"
        ),
        Markup('<rect class="frame" x="{0}" y="{0}" width="{1}" height="{1}"/>').format(margin, cell * len(classes)),
    ]
    for index, name in enumerate(classes):
        middle, short = margin + cell * index + cell / 2, name if len(name) <= 14 else name[:13] + "…"
        parts.append(Markup('<text class="end" x="{}" y="{}">{}</text>').format(margin - 4, middle + 2.4, short))
        parts.append(
            Markup('<text transform="translate({} {}) rotate(-90)">{}</text>').format(middle + 2.4, margin - 4, short)
        )
    for row, counts in enumerate(confusion):
        total = sum(counts)
        for column, count in enumerate(counts):
            if count:
                style = "hit" if row == column else "miss"
                parts.append(
                    Markup(
                        '<rect class="{}" x="{}" y="{}" width="{}" height="{}" fill-opacity="{:.2f}">'
                        "<title>{} → {}: {} of {}</title></rect>"
                    ).format(
                        style, margin + cell * column + 0.5, margin + cell * row + 0.5, cell - 1, cell - 1,
                        0.25 + 0.75 * count / total, classes[row], classes[column], count, total,
                    )
                )  # fmt: skip
    return Markup("").join([*parts, Markup("</svg>")])


def lineage(
    names: Sequence[str],
    inputs: Sequence[Sequence[str]],
    keys: Sequence[str],
    *,
    decided: tuple[str, str] | None = None,
) -> Markup:
    """Steps from left to right; an arrow from each artifact to the steps that were made from it.

    Args:
        decided: a step that chose the configuration of another one, without being an input of it.
    """
    high, top = 50, 74
    wide, gap = (132, 44) if len(names) <= ROOMY_STEPS else (118, 36)
    width = len(names) * (wide + gap) - gap + 2
    parts = [
        Markup(
            '<svg class="lineage" viewBox="0 0 {0} {1}" width="{0}" role="img"><title>{2}</title>'
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0.5 8 4 0 7.5z"/></marker></defs>'
        ).format(width, top + high + 2, "Which artifact was made from which: " + "; ".join(
            f"{name} from {', '.join(made_from)}" for name, made_from in zip(names, inputs, strict=True) if made_from)),
    ]  # fmt: skip
    arrows = [(names.index(name), column, "edge") for column, made_from in enumerate(inputs) for name in made_from]
    if decided is not None:
        arrows.append((names.index(decided[0]), names.index(decided[1]), "edge decides"))
    for source, column, style in sorted(arrows, key=lambda arrow: (arrow[1], -arrow[0])):
        start, end = source * (wide + gap) + wide, column * (wide + gap)
        if column - source == 1:
            path = f"M{start + 2} {top + high / 2} H{end - 2}"
        else:
            peak = top - 20 - 16 * (column - source - 1)
            leave, arrive = start - 24, end + 16 + 12 * (column - source - 2)
            path = f"M{leave} {top - 1} C{leave} {peak} {arrive} {peak} {arrive} {top - 3}"
        parts.append(Markup('<path class="{}" d="{}" marker-end="url(#tip)"/>').format(style, path))
    for column, (name, key) in enumerate(zip(names, keys, strict=True)):
        x = column * (wide + gap) + 1
        parts.append(
            Markup(
                '<rect x="{}" y="{}" width="{}" height="{}" rx="7"/><text class="step" x="{}" y="{}">{}</text>'
                '<text class="key" x="{}" y="{}">{}</text>'
            ).format(x, top, wide, high, x + 14, top + 21, name, x + 14, top + 38, key[:12])
        )
    return Markup("").join([*parts, Markup("</svg>")])
