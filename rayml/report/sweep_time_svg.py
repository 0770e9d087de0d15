"""Drawings of how a sweep went: learning curves, the best so far, and which trial ran on which node when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rayml.report import svg, words
from rayml.report.scale import Scale, fitted
from rayml.report.sweep_svg import CHARS, MANY, WIDE, Frame, Look, axis_name, open_svg, short

LONGEST_PAUSE_SHARE = 0.05
"""Of the time in which trials ran: a longer pause, as before a run that went on, is drawn short."""
SHORTEST_CUT_S = 30.0
LABEL_HEIGHT = 13
NODES_HEIGHT = 46


def curves(
    lines: Sequence[tuple[Look, Sequence[svg.Point], Sequence[Mapping[str, int]]]],
    epochs: int,
    objective: Mapping[str, str],
) -> Markup:
    """A metric by epoch for each trial; one that was stopped ends with a stroke.

    Args:
        lines: trial, its (epoch, value), and where it took over the weights of another one. The chosen one is the last.
    """
    values = [y for _, points, _ in lines for _, y in points]
    frame = Frame(x=Scale(1, max(epochs, 2), is_whole=True), y=fitted(values, objective["metric"]))
    style = "curves many" if len(lines) > MANY else "curves"
    parts = [
        open_svg(style, frame.width, frame.height, f"{objective['metric']} by epoch of every trial"),
        frame.grid("epoch", axis_name(objective)),
    ]
    for look, points, taken in lines:
        places = [frame.at(*point) for point in points]
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        x, y = places[-1]
        drawn = [Markup('<path d="{}"/>').format(path)]
        if len(points) == 1 or "chosen" in look.style:
            drawn.append(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(x, y, 2))
        if "stopped" in look.style or "failed" in look.style:
            drawn.append(Markup('<path d="M{0:.1f} {1:.1f}v7"/>').format(x, y - 3.5))
        drawn += [_taken(place, row) for row in taken for place, point in zip(places, points, strict=True)
                  if point[0] == row["epoch"]]  # fmt: skip
        parts.append(
            Markup('<g class="trial {}" style="{}"><title>{}</title>{}</g>').format(
                look.style, look.css, look.text, Markup("").join(drawn)
            )
        )
    return Markup("").join([*parts, Markup("</svg>")])


def _taken(place: svg.Point, row: Mapping[str, int]) -> Markup:
    return Markup('<circle class="taken" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>').format(
        *place, f"took over the weights of trial {row['trial']}"
    )


def history(
    found: Sequence[tuple[Look, float]],
    best: Sequence[float],
    y_name: str,
    metric: str,
) -> Markup:
    """The best so far over the trials that ended, and each trial's own value.

    Args:
        found: trial and value in the order in which they ended; empty where only `best` is known.
        best: after each of them.
    """
    frame = Frame(
        x=Scale(1, max(len(best), 2), is_whole=True),
        y=fitted([*best, *(value for _, value in found)], metric, can_be_log=False),
    )
    parts = [
        open_svg("history", frame.width, frame.height, f"{y_name} over the trials that ended"),
        frame.grid("trials that ended", y_name),
    ]
    for place, (look, value) in enumerate(found, 1):
        x, y = frame.at(place, value)
        parts.append(
            Markup(
                '<circle class="trial {}" style="{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>'
            ).format(look.style, look.css, x, y, look.text)
        )
    path = "M{:.1f} {:.1f}".format(*frame.at(1, best[0]))
    for place, value in enumerate(best[1:], 2):
        path += " H{:.1f} V{:.1f}".format(*frame.at(place, value))
    if len(best) == 1:
        path += f" h{(frame.width - frame.left - frame.right):.1f}"
    parts.append(Markup('<path class="so-far" d="{}"/>').format(path))
    return Markup("").join([*parts, Markup("</svg>")])


@dataclass(frozen=True)
class Span:
    """A trial on a node, in Unix seconds."""

    look: Look
    node: str
    started: float
    ended: float


Lanes = list[tuple[str, list[Span]]]
"""Node, and the trials of one of its places."""


@dataclass(frozen=True)
class Clock:
    """Unix time to seconds in which the sweep ran: long pauses are left out."""

    pauses: Sequence[tuple[float, float]]
    started: float
    ended: float

    def at(self, t: float) -> float:
        """Seconds since the start, without the pauses before."""
        paused = sum(min(end, t) - begin for begin, end in self.pauses if t > begin)
        return min(max(t, self.started), self.ended) - self.started - paused


def running_clock(spans: Sequence[Span]) -> Clock:
    """The clock of all spans."""
    order = sorted((span.started, span.ended) for span in spans)
    end, gaps, busy = order[0][0], [], 0.0
    for started, ended in order:
        if started > end:
            gaps.append((end, started))
        busy += max(0.0, ended - max(started, end))
        end = max(end, ended)
    longest = max(SHORTEST_CUT_S, LONGEST_PAUSE_SHARE * busy)
    pauses = [(begin, after) for begin, after in gaps if after - begin > longest]
    return Clock(pauses, order[0][0], end)


def lanes(spans: Sequence[Span]) -> Lanes:
    """Node and spans that follow each other: as many lanes of a node as it ran trials at a time."""
    found: dict[str, list[list[Span]]] = {}
    for span in sorted(spans, key=lambda each: (each.started, each.look.number)):
        slots = found.setdefault(span.node, [])
        free = next((slot for slot in slots if slot[-1].ended <= span.started + 1e-3), None)
        if free is None:
            slots.append([span])
        else:
            free.append(span)
    return [(node, slot) for node, slots in found.items() for slot in slots]


def timeline(spans: Sequence[Span], nodes: Sequence[Mapping[str, float]]) -> Markup:
    """A lane for each place of a node, a bar for each trial in it; below, how many nodes there were."""
    rows, clock = lanes(spans), running_clock(spans)
    left, right, top = 118.0, 14.0, 6.0
    lane = min(20.0, max(5.0, 560.0 / len(rows)))
    whole = max(clock.at(clock.ended), 1e-3)
    bottom = top + lane * len(rows)
    has_nodes = any(row["nodes"] for row in nodes)
    height = bottom + 26 + (70 if has_nodes else 0)

    def across(t: float) -> float:
        return left + (WIDE - left - right) * clock.at(t) / whole

    parts = [open_svg("timeline", WIDE, height, "Which trial ran on which node when")]
    ticks = [tick for tick in svg.nice_ticks(0, whole, 8) if tick <= whole]
    floor = height - 20
    for tick in ticks:
        x = left + (WIDE - left - right) * tick / whole
        text = f"{tick:g} s" if whole < 120 else words.duration(tick)
        parts.append(
            Markup(
                '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2:.1f}"/>'
                '<text class="tick {3}" x="{0:.1f}" y="{4:.1f}">{5}</text>'
            ).format(x, top, floor, "middle", height - 4, text)
        )
    parts += _lanes(rows, left, top, lane, across)
    for begin, end in clock.pauses:
        parts.append(
            Markup(
                '<line class="pause" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2:.1f}"><title>{3}</title></line>'
            ).format(across(begin), top, floor, f"nothing ran for {words.duration(end - begin)}")
        )
    if has_nodes:
        parts += _nodes(nodes, left, WIDE - right, bottom + 22, across)
    return Markup("").join([*parts, Markup("</svg>")])


def _lanes(rows: Lanes, left: float, top: float, lane: float, across: Callable[[float], float]) -> list[Markup]:
    """The bars, and each node's name where its first lane has room for it."""
    parts, named, last_y = [], None, -99.0
    for place, (node, slot) in enumerate(rows):
        y = top + place * lane
        if node != named:
            named = node
            if place:
                line = Markup('<line class="node" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>')
                parts.append(line.format(left, WIDE, y))
            if y - last_y >= LABEL_HEIGHT:
                last_y = y
                label = Markup('<text class="tick end" x="{}" y="{:.1f}"><title>{}</title>{}</text>')
                name = node or "not told"
                parts.append(label.format(left - 10, y + lane / 2 + 4, name, short(name, left - 14)))
        parts += [_bar(span, y, lane, across) for span in slot]
    return parts


def _bar(span: Span, y: float, lane: float, across: Callable[[float], float]) -> Markup:
    """A trial's time on its node, with its number where it fits."""
    begin, wide = across(span.started), max(across(span.ended) - across(span.started) - 0.8, 1.2)
    bar = Markup(
        '<rect class="span {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="{}"><title>{}</title></rect>'
    ).format(span.look.style, begin, y + 1.2, wide, lane - 2.4, 2.5 if lane > 9 else 1, span.look.text)
    number = str(span.look.number)
    if lane < 14 or wide < CHARS * len(number) + 6:
        return bar
    text = Markup('<text class="inside {}" x="{:.1f}" y="{:.1f}">{}</text>')
    return bar + text.format(span.look.style, begin + wide / 2, y + lane / 2 + 4, number)


def _nodes(
    nodes: Sequence[Mapping[str, float]], left: float, right: float, top: float, across: Callable[[float], float]
) -> list[Markup]:
    """How many nodes there were, as a line that steps."""
    most = max(row["nodes"] for row in nodes)
    scale = Scale(0, max(most, 1), is_whole=True)

    def up(amount: float) -> float:
        return top + NODES_HEIGHT * (1 - scale.share(amount))

    path = f"M{left:.1f} {up(nodes[0]['nodes']):.1f}"
    for row in nodes[1:]:
        path += f" H{across(row['t']):.1f} V{up(row['nodes']):.1f}"
    path += f" H{right:.1f}"
    drawn = Markup('<path class="nodes-area" d="{} V{:.1f} H{:.1f} Z"/><path class="nodes" d="{}"/>')
    label = Markup('<text class="tick end" x="{}" y="{:.1f}">{}</text>')
    ends = ((most, words.count(int(most), "node")), (0, "0"))
    return [
        drawn.format(path, top + NODES_HEIGHT, left, path),
        *(label.format(left - 10, up(amount) + 4, text) for amount, text in ends),
    ]
