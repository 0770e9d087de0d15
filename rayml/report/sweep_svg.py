"""Drawings of a sweep's configurations: parallel coordinates, importance of each key, Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from rayml.report import svg
from rayml.report.scale import Axis, Scale, fitted

WIDE = 880
"""Width of a drawing across the page."""
MANY = 60
"""Trials from which lines are thinner."""
CHARS = 6.9
"""Width of a letter at the size of the labels."""
GOLDEN = 0.618034
"""Multiples of it spread evenly over 0 to 1: lines through the same value lie beside each other."""
NARROWEST_GAP = 92.0


@dataclass(frozen=True)
class Look:
    """How a trial is drawn, the same in every drawing."""

    number: int
    shade: float | None
    """0 for the last by the first objective, 1 for the first; None where it has no value."""
    style: str
    """Its status, and `chosen`."""
    text: str
    """What is said of it on hover."""

    @property
    def css(self) -> str:
        return f"--v:{100 * self.shade:.0f}%" if self.shade is not None else ""


def open_svg(style: str, width: float, height: float, title: str) -> Markup:
    """The first tag, with words for who cannot see it."""
    return Markup('<svg class="chart {}" viewBox="0 0 {:.0f} {:.0f}" role="img"><title>{}</title>').format(
        style, width, height, title
    )


def short(text: str, room: float) -> str:
    """The text, cut to a width."""
    most = max(3, int(room / CHARS))
    return text if len(text) <= most else text[: most - 1] + "…"


def parallel(axes: Sequence[Axis], rows: Sequence[tuple[Look, Sequence[object]]]) -> Markup:
    """A line for each trial over an axis for each key. A value that a trial does not have is a gap.

    Args:
        rows: what is drawn first is below: the chosen trial comes last.
    """
    left, right, top, high, foot = 70, 46, 46, 300, 14
    gap = max(NARROWEST_GAP, (WIDE - left - right) / max(len(axes) - 1, 1))
    width = left + gap * (len(axes) - 1) + right
    parts = [
        Markup('<svg class="chart parallel{}" viewBox="0 0 {:.0f} {}" style="min-width:{:.0f}px" role="img">').format(
            " many" if len(rows) > MANY else "", width, top + high + foot, 0.94 * width
        ),
        Markup("<title>{}</title>").format("Each trial as a line over " + ", ".join(axis.name for axis in axes)),
    ]
    parts += [_upright(left + gap * place, top, high, axis, gap) for place, axis in enumerate(axes)]
    for look, values in rows:
        points = []
        for place, (axis, value) in enumerate(zip(axes, values, strict=True)):
            share = axis.place(value)
            jitter = 0.03 * ((look.number * GOLDEN) % 1 - 0.5) if axis.is_choice else 0.0
            points.append(None if share is None else (left + gap * place, top + high * (1 - share - jitter)))
        parts.append(_broken(look, points))
    parts += [_ticks(left + gap * place, top, high, axis, gap) for place, axis in enumerate(axes)]
    return Markup("").join([*parts, Markup("</svg>")])


def _upright(x: float, top: float, high: float, axis: Axis, gap: float) -> Markup:
    return Markup(
        '<line class="axis" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
        '<text class="name middle" x="{0:.1f}" y="{3}"><title>{4}</title>{5}</text>'
        '<text class="tick middle" x="{0:.1f}" y="{6}">{7}</text>'
    ).format(x, top, top + high, top - 28, axis.title, short(axis.name, gap - 6), top - 12, axis.remark)


def _ticks(x: float, top: float, high: float, axis: Axis, gap: float) -> Markup:
    return Markup("").join(
        Markup('<text class="tick end over" x="{:.1f}" y="{:.1f}">{}</text>').format(
            x - 7, top + high * (1 - at) + 4, short(text, gap - 12)
        )
        for at, text in axis.ticks
    )


def _broken(look: Look, points: Sequence[svg.Point | None]) -> Markup:
    """A line with gaps; a point between two gaps, and each of the chosen trial's, is a dot."""
    path, dots = "", []
    padded = [None, *points, None]
    for before, point, after in zip(padded[:-2], points, padded[2:], strict=True):
        if point is None:
            continue
        path += f"{'L' if before else 'M'}{point[0]:.1f} {point[1]:.1f}"
        if (before is None and after is None) or "chosen" in look.style:
            dots.append(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3"/>').format(*point))
    line = Markup('<path d="{}"/>').format(path) if path else Markup("")
    return Markup('<g class="trial {}" style="{}"><title>{}</title>{}{}</g>').format(
        look.style, look.css, look.text, line, Markup("").join(dots)
    )


def importance(shares: Mapping[str, float], names: Mapping[str, str]) -> Markup:
    """A bar for each key: its share of what the first objective varies by."""
    order = sorted(shares.items(), key=lambda each: -each[1])
    width, row = 440, 34
    largest = max(shares.values()) or 1.0
    parts = [open_svg("importance", width, row * len(order) + 4, "How much each key decides")]
    for place, (path, share) in enumerate(order):
        y = place * row + 14
        parts.append(
            Markup(
                '<text class="key" x="0" y="{0}"><title>{1}</title>{2}</text>'
                '<text class="tick end" x="{3}" y="{0}">{4}</text>'
                '<rect class="rail" x="0" y="{5}" width="{3}" height="6" rx="3"/>'
                '<rect class="amount" x="0" y="{5}" width="{6:.1f}" height="6" rx="3"/>'
            ).format(
                y, path, short(names.get(path, path), width - 70), width, f"{100 * share:.1f} %", y + 6,
                max(2.0, width * share / largest),
            )
        )  # fmt: skip
    return Markup("").join([*parts, Markup("</svg>")])


@dataclass(frozen=True)
class Frame:
    """A plot's edges, with a scale along each."""

    x: Scale
    y: Scale
    width: float = 440
    height: float = 270
    left: float = 58
    right: float = 26
    top: float = 26
    bottom: float = 42

    def at(self, x: float, y: float) -> svg.Point:
        """Where a pair of values stands."""
        across = self.left + self.x.share(x) * (self.width - self.left - self.right)
        return across, self.height - self.bottom - self.y.share(y) * (self.height - self.top - self.bottom)

    def grid(self, x_name: str, y_name: str) -> Markup:
        """Lines, ticks and the names of both axes."""
        inner, tall = self.width - self.left - self.right, self.height - self.top - self.bottom
        parts = []
        for share, text in self.y.ticks():
            y = self.height - self.bottom - share * tall
            parts.append(
                Markup(
                    '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
                    '<text class="tick end" x="{3}" y="{4:.1f}">{5}</text>'
                ).format(self.left, self.width - self.right, y, self.left - 8, y + 4, text)
            )
        for share, text in self.x.ticks():
            parts.append(
                Markup('<text class="tick middle" x="{:.1f}" y="{}">{}</text>').format(
                    self.left + share * inner, self.height - self.bottom + 18, text
                )
            )
        parts.append(Markup('<text class="about-axis" x="0" y="12">{}</text>').format(y_name))
        parts.append(
            Markup('<text class="about-axis end" x="{}" y="{}">{}</text>').format(
                self.width - self.right, self.height - 4, x_name
            )
        )
        return Markup("").join(parts)


def pareto(
    points: Sequence[tuple[Look, float, float]],
    front: Sequence[int],
    objectives: Sequence[Mapping[str, str]],
) -> Markup:
    """The second objective across, the first one up; the front with the values that it promises at least.

    Args:
        points: trial, value of the first objective, value of the second one.
        front: numbers of the trials that no other one beats.
    """
    first, second = objectives[0], objectives[1]
    frame = Frame(
        x=fitted([x for _, _, x in points], second["metric"]), y=fitted([y for _, y, _ in points], first["metric"])
    )
    parts = [
        open_svg("pareto", frame.width, frame.height, f"{first['metric']} against {second['metric']} of the trials"),
        frame.grid(axis_name(second), axis_name(first)),
    ]
    on_front = sorted((x, y) for look, y, x in points if look.number in front)
    if len(objectives) == 2 and len(on_front) > 1:
        parts.append(Markup('<path class="front" d="{}"/>').format(_staircase(frame, on_front, second["goal"])))
    labels: list[tuple[float, float]] = []
    for look, y, x in sorted(points, key=lambda each: (each[0].number in front, "chosen" in each[0].style)):
        across, up = frame.at(x, y)
        style = f"{look.style} {'best' if look.number in front else 'beaten'}"
        parts.append(
            Markup(
                '<circle class="trial {}" style="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>'
            ).format(style, look.css, across, up, 5.5 if "chosen" in look.style else 4, look.text)
        )
    for look, y, x in sorted(points, key=lambda each: "chosen" not in each[0].style):
        across, up = frame.at(x, y)
        if look.number not in front or any(abs(across - a) < 30 and abs(up - u) < 14 for a, u in labels):
            continue
        labels.append((across, up))
        text = f"trial {look.number}" if "chosen" in look.style else str(look.number)
        near_end = across > frame.width - frame.right - 50
        parts.append(
            Markup('<text class="label {}" x="{:.1f}" y="{:.1f}">{}</text>').format(
                f"{look.style} {'end' if near_end else ''}", across + (-9 if near_end else 9), up + 16, text
            )
        )
    return Markup("").join([*parts, Markup("</svg>")])


def axis_name(objective: Mapping[str, str]) -> str:
    """The metric, and which way is better."""
    return f"{objective['metric']}, {'more' if objective['goal'] == 'max' else 'less'} is better"


def _staircase(frame: Frame, points: Sequence[svg.Point], goal: str) -> str:
    """Between two points of a front the worse of both is what is sure."""
    path = "M{:.1f} {:.1f}".format(*frame.at(*points[0]))
    for before, after in pairwise(points):
        corner = (after[0], before[1]) if goal == "min" else (before[0], after[1])
        path += " L{:.1f} {:.1f} L{:.1f} {:.1f}".format(*frame.at(*corner), *frame.at(*after))
    return path
