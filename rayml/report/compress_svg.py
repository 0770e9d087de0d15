"""The drawing of a ladder: every candidate by file size and latency, and the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rayml.report import svg, words
from rayml.report.scale import LOG_FROM, Scale, fitted
from rayml.report.sweep_svg import CHARS, Frame, open_svg

REACH = 1.4
"""A bound further out than so many times the largest value is left out: it would squeeze what there is to see."""
LINE = 15.0
"""Height of a label."""

BELOW_FIRST = ("dim", "kept", "chosen")

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Candidate:
    """A rung as a point."""

    name: str
    label: str
    """Its difference in accuracy."""
    style: str
    """chosen, kept or dim."""
    size: float
    """Bytes."""
    p50_ms: float

    @property
    def text(self) -> str:
        return f"{self.name} {self.label}".rstrip()


def candidates(points: Sequence[Candidate], size: float | None, p50_ms: float | None) -> Markup:
    """Size across, latency up, so that the best is at the lower left; the way through the rungs that were kept.

    Args:
        size: bound of the budget in bytes.
        p50_ms: bound of the budget.
    """
    frame = Frame(
        x=from_zero([point.size for point in points], size, "size_bytes"),
        y=from_zero([point.p50_ms for point in points], p50_ms, "p50_ms"),
        height=300,
    )
    parts = [
        open_svg("ladder-map", frame.width, frame.height, "File size and latency of the candidates"),
        frame.grid("file size, less is better", "latency, p50 of one row on one thread, less is better"),
    ]
    bounds, taken = limits(frame, size, p50_ms)
    parts.append(bounds)
    way = [frame.at(point.size, point.p50_ms) for point in points if point.style != "dim"]
    parts.append(Markup('<path class="way" d="M{}"/>').format(" L".join(f"{x:.1f} {y:.1f}" for x, y in way)))
    taken += [around(frame.at(point.size, point.p50_ms)) for point in points]
    for point in sorted(points, key=lambda each: BELOW_FIRST.index(each.style)):
        parts.append(
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
                point.style,
                *frame.at(point.size, point.p50_ms),
                6 if point.style == "chosen" else 4.5,
                f"{point.text}: {point.size / 1000:,.1f} kB, {point.p50_ms:.3g} ms",
            )
        )
    for point in sorted(points, key=lambda each: -BELOW_FIRST.index(each.style)):
        parts.append(label(frame, point, taken))
    return Markup("").join([*parts, Markup("</svg>")])


def from_zero(values: Sequence[float], bound: float | None, metric: str) -> Scale:
    """From 0, so that a distance is a share; logarithmic where the values are far apart."""
    shown = [*values, bound] if bound is not None and bound <= REACH * max(values) else list(values)
    if max(shown) / min(shown) > LOG_FROM:
        return fitted(shown, metric)
    return Scale(0.0, 1.12 * max(shown), metric=metric)


def limits(frame: Frame, size: float | None, p50_ms: float | None) -> tuple[Markup, list[Box]]:
    """The budget: a named line for each bound, and what is outside in a shade. Also where the names stand."""
    left, top = frame.left, frame.top
    right, bottom = frame.width - frame.right, frame.height - frame.bottom
    parts, taken = [], []
    if size is not None and frame.x.low < size <= frame.x.high:
        x = frame.at(size, frame.y.low)[0]
        parts.append(outside(x, top, right - x, bottom - top))
        parts.append(Markup('<line class="limit" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x, top, bottom))
        taken.append(bound(parts, x + 6, top + 12, f"budget {words.size(size)}", frame))
    if p50_ms is not None and frame.y.low < p50_ms <= frame.y.high:
        y = frame.at(frame.x.low, p50_ms)[1]
        parts.append(outside(left, top, right - left, y - top))
        parts.append(Markup('<line class="limit" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>').format(left, right, y))
        taken.append(bound(parts, right, y - 6, f"budget {p50_ms:.3g} ms", frame))
    return Markup("").join(parts), taken


def bound(parts: list[Markup], x: float, y: float, text: str, frame: Frame) -> Box:
    """Write the name of a bound, inside the frame."""
    wide, right = CHARS * len(text), frame.width - frame.right - 4
    anchor = "end" if x + wide > right else ""
    parts.append(
        Markup('<text class="bound {}" x="{:.1f}" y="{:.1f}">{}</text>').format(anchor, right if anchor else x, y, text)
    )
    left = right - wide if anchor else x
    return left, y - LINE + 4, left + wide, y + 4


def outside(x: float, y: float, wide: float, high: float) -> Markup:
    return Markup('<rect class="outside" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
        x, y, max(0.0, wide), max(0.0, high)
    )


def around(point: svg.Point) -> Box:
    x, y = point
    return x - 7, y - 7, x + 7, y + 7


def label(frame: Frame, point: Candidate, taken: list[Box]) -> Markup:
    """The name beside its point, at the first place where it covers nothing; on hover only where there is none."""
    x, y = frame.at(point.size, point.p50_ms)
    wide = CHARS * len(point.text)
    starts = [(x + 10, y + 4, ""), (x - 10 - wide, y + 4, "end")]
    starts += [(x + shift * wide, y + drop, "") for drop in (-11, 20, -26, 34) for shift in (-0.5, -0.1, -0.9)]
    for left, base, anchor in starts:
        box = left, base - LINE + 4, left + wide, base + 4
        if box[0] < frame.left or box[2] > frame.width or box[1] < frame.top or box[3] > frame.height - frame.bottom:
            continue
        if any(overlap(box, other) for other in taken):
            continue
        taken.append(box)
        return Markup('<text class="label {} {}" x="{:.1f}" y="{:.1f}">{}</text>').format(
            point.style, anchor, left + wide if anchor else left, base, point.text
        )
    return Markup("")


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
