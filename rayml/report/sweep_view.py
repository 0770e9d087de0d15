"""What the page shows of a sweep, worked out from its record: sentences, rows and drawings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from rayml.observe.sweep import Trial, best_first, costs, error_line, metric_text, short_names, value_text
from rayml.plan.front import known
from rayml.report import sweep_svg, sweep_time_svg, words
from rayml.report.scale import Axis, Scale, choice_axis, fitted, number_axis
from rayml.report.sweep import Record
from rayml.report.sweep_svg import Look

WHY_CHARS = 90
"""A longer reason or error is cut in the table; the trial's own entry has it whole."""
CHOICE_CHARS = 40
PILLS = {"done": "good", "stopped": "calm", "failed": "bad", "unfinished": "warn"}


def sweep_view(sweep: Record | None, run: str) -> dict[str, Any] | None:
    """Everything that the section shows; None where there was no trial."""
    if sweep is None or not sweep["trials"]:
        return None
    paths = [row["path"] for row in sweep["space"]]
    names = short_names(paths)
    order = best_first(sweep["trials"], sweep["objectives"], sweep["front"])
    looks = look_of(sweep, order, names)
    decision = sweep["decision"]
    return {
        "sentence": sentence(sweep, order),
        "values": [(path, value_text(value)) for path, value in decision["values"].items()] if decision else [],
        "command": f"rayml show {run} --trial {decision['trial'] if decision else order[0]['number']}",
        "tiles": tiles(sweep, order),
        "metrics": [objective["metric"] for objective in sweep["objectives"]],
        "keys": [(row["path"], names[row["path"]], "" if is_text(row) else "num") for row in sweep["space"]],
        "rows": [row_of(trial, sweep, looks[trial["number"]]) for trial in order],
        "trials": [entry_of(trial, run) for trial in sorted(order, key=lambda trial: trial["number"])],
        "objective": sweep["objectives"][0]["metric"],
        "has_failed": any(trial["status"] == "failed" for trial in order),
        "has_unfinished": any(trial["status"] == "unfinished" for trial in order),
        **drawings(sweep, order, looks, names),
    }


def look_of(sweep: Record, order: Sequence[Trial], names: dict[str, str]) -> dict[int, Look]:
    """How each trial is drawn. Its shade is its place by the first objective, which no outlier can wash out."""
    ranked = [trial for trial in order if costs(trial, sweep["objectives"][:1]) and trial["status"] != "failed"]
    ranked.sort(key=lambda trial: costs(trial, sweep["objectives"][:1]) or [], reverse=True)
    places = {trial["number"]: at / max(len(ranked) - 1, 1) for at, trial in enumerate(ranked)}
    chosen = sweep["decision"]["trial"] if sweep["decision"] else None
    metrics = [objective["metric"] for objective in sweep["objectives"]]
    looks = {}
    for trial in order:
        number = trial["number"]
        values = [f"{metric} {shown_metric(metric, trial['values'])}" for metric in metrics]
        point = [f"{names.get(path, path)} {value_text(value)}" for path, value in trial["point"].items()]
        text = f"trial {number}, {trial['status']}: {', '.join([*values, *point])}"
        style = f"{trial['status']} chosen" if number == chosen else trial["status"]
        looks[number] = Look(number, places.get(number), style, text)
    return looks


def sentence(sweep: Record, order: Sequence[Trial]) -> str:
    """What was decided, and how sure it is; of a sweep that was cut off, how far it got."""
    decision = sweep["decision"]
    if decision is None:
        return far_sentence(sweep, order)
    said = [f"{metric} {metric_text(metric, value)}" for metric, value in decision["objectives"].items()]
    if decision["interval"] and said:
        metric = sweep["objectives"][0]["metric"]
        low, high = (metric_text(metric, end) for end in decision["interval"])
        said[0] += f" (95 % interval {low} to {high})"
    tied = decision["tied"]
    text = f"Trial {decision['trial']} goes on ({decision['why']}): {', '.join(said)}"
    if not tied:
        return text + "."
    others = ", ".join(map(str, tied[:-1])) + f" and {tied[-1]}" if len(tied) > 1 else str(tied[0])
    return f"{text}. It cannot be told from {'trial' if len(tied) == 1 else 'trials'} {others}."


def far_sentence(sweep: Record, order: Sequence[Trial]) -> str:
    """Of a sweep without a decision."""
    ended = sum(trial["status"] in ("done", "stopped", "failed") for trial in order)
    most = sweep["budget"].get("trials")
    text = f"{ended} of {most} trials have ended" if most else f"{words.count(ended, 'trial')} ended"
    text = f"No trial was chosen: {text}" if sweep["is_whole"] else f"The sweep has not ended: {text}"
    metric, best = sweep["objectives"][0]["metric"], order[0]
    if not known(best["values"].get(metric)):
        return text + "."
    return f"{text}; so far trial {best['number']} is the best, {metric} {metric_text(metric, best['values'][metric])}."


def tiles(sweep: Record, order: Sequence[Trial]) -> list[tuple[str, str, str]]:
    """Trials, what the budget bought, the best: (name, value, remark)."""
    counts = [(status, sum(trial["status"] == status for trial in order)) for status in PILLS]
    found = [("Trials", str(len(order)), ", ".join(f"{count} {status}" for status, count in counts if count))]
    trained = sum(len(trial["epochs"]) for trial in order)
    whole = sweep["epochs"] * len(order)
    found.append(
        ("Epochs trained", f"{trained:,}", f"{words.percent(trained / whole, 0)} of {whole:,} without stopping")
    )
    for objective in sweep["objectives"][:2]:
        best = min((trial for trial in order if costs(trial, [objective])), default=None,
                   key=lambda trial: costs(trial, [objective]) or [])  # fmt: skip
        if best is not None:
            metric = objective["metric"]
            value = metric_text(metric, best["values"][metric])
            found.append((f"Best {metric}", value, f"trial {best['number']}, {best['status']}"))
    spent = sweep["spent"] or {}
    if spent.get("wall_s") is not None:
        rest = [f"{spent[name]:.3g} {word}" for name, word in SPENT if spent.get(name)]
        found.append(("Time", words.duration(spent["wall_s"]), ", ".join(rest)))
    if sweep["ended"]:
        found.append(("Ended by", sweep["ended"], "the limit that was met first"))
    return found


SPENT = (("cpu_hours", "CPU-hours"), ("gpu_hours", "GPU-hours"), ("money", "money"))


def row_of(trial: Trial, sweep: Record, look: Look) -> Record:
    """A row of the table."""
    why = error_line(trial["error"] or "") or trial["reason"]
    return {
        "number": trial["number"],
        "status": trial["status"],
        "pill": PILLS[trial["status"]],
        "is_chosen": "chosen" in look.style,
        "is_front": len(sweep["objectives"]) > 1 and trial["number"] in sweep["front"],
        "epochs": f"{len(trial['epochs'])} of {sweep['epochs']}",
        "metrics": [shown_metric(objective["metric"], trial["values"]) for objective in sweep["objectives"]],
        "seconds": words.duration(trial["seconds"]),
        "point": [(shown_value(trial["point"], row["path"]), "" if is_text(row) else "num") for row in sweep["space"]],
        "why": why if len(why) <= WHY_CHARS else why[: WHY_CHARS - 1] + "…",
    }


def is_text(row: Record) -> bool:
    """Whether a key's values are words or sections."""
    return not all(known(value) for value in row["values"])


def shown_metric(metric: str, values: Record) -> str:
    return metric_text(metric, values[metric]) if known(values.get(metric)) else words.MISSING


def shown_value(point: Record, path: str) -> str:
    """A value in the table; nothing where the key was not searched."""
    text = value_text(point[path]) if path in point else ""
    return text if len(text) <= CHOICE_CHARS else text[: CHOICE_CHARS - 1] + "…"


def entry_of(trial: Trial, run: str) -> Record:
    """All of a trial, and the command that prints its job file."""
    nodes = list(dict.fromkeys(span["node"] for span in trial["spans"]))
    facts = {
        "status": trial["status"],
        "configuration": {
            "known": "given",
            "warm": "from an earlier sweep",
            "draw": "drawn",
            "grid": "of the grid",
        }.get(trial["origin"], "proposed by the search"),
        "nodes": ", ".join(filter(None, nodes)),
        "attempts": trial["attempts"],
        **({"reason": trial["reason"]} if trial["reason"] else {}),
        **{f"took over at epoch {row['epoch']:g}": f"trial {row['trial']}" for row in trial["took_over"]},
        **{f"key of {name}": key[:12] for name, key in trial["keys"].items() if key},
    }
    return {
        "number": trial["number"],
        "command": f"rayml show {run} --trial {trial['number']}",
        "point": trial["point"],
        "facts": facts,
        "error": trial["error"],
    }


def drawings(sweep: Record, order: Sequence[Trial], looks: dict[int, Look], names: dict[str, str]) -> Record:
    """Every drawing that has something to show, by its name in the template."""
    below_first = sorted(
        order, key=lambda trial: ("chosen" in looks[trial["number"]].style, looks[trial["number"]].shade or 0.0)
    )
    axes = axes_of(sweep, names)
    columns = [row["path"] for row in sweep["space"]]
    metrics = [objective["metric"] for objective in sweep["objectives"]]
    rows = [
        (
            looks[trial["number"]],
            [*(trial["point"].get(path) for path in columns), *(trial["values"].get(metric) for metric in metrics)],
        )
        for trial in below_first
    ]
    return {
        "parallel": sweep_svg.parallel(axes, rows),
        "importance": sweep_svg.importance(sweep["importance"], names) if sweep["importance"] else None,
        "curves": draw_curves(sweep, below_first, looks),
        "history": draw_history(sweep, order, looks),
        "pareto": draw_front(sweep, order, looks),
        "timeline": draw_timeline(sweep, looks),
    }


def axes_of(sweep: Record, names: dict[str, str]) -> list[Axis]:
    """An axis for each searched key, then one for each objective that some trial has."""
    axes = []
    for row in sweep["space"]:
        path = row["path"]
        if row["kind"] == "choice":
            axes.append(choice_axis(names[path], path, row["values"], [value_text(value) for value in row["values"]]))
        else:
            is_log, is_whole = "log" in row["kind"], "integer" in row["kind"]
            scale = Scale(row["low"], row["high"], is_log=is_log, is_whole=is_whole)
            axes.append(number_axis(names[path], path, "log" if is_log else "", scale))
    for objective in sweep["objectives"]:
        metric = objective["metric"]
        values = [trial["values"][metric] for trial in sweep["trials"] if known(trial["values"].get(metric))]
        scale = fitted(values, metric) if values else Scale(0, 1, metric=metric)
        axes.append(number_axis(metric, metric, "↑ is better" if objective["goal"] == "max" else "↓ is better", scale))
    return axes


def draw_curves(sweep: Record, trials: Sequence[Trial], looks: dict[int, Look]) -> Record | None:
    """Of the first objective that training reports."""
    for objective in [*sweep["objectives"], {"metric": "val/loss", "goal": "min"}]:
        metric = objective["metric"]
        lines = []
        for trial in trials:
            points = [(row["epoch"], row[metric]) for row in trial["epochs"] if known(row.get(metric))]
            if points:
                lines.append((looks[trial["number"]], points, trial["took_over"]))
        if lines:
            return {"name": metric, "drawing": sweep_time_svg.curves(lines, sweep["epochs"], objective)}
    return None


def draw_history(sweep: Record, order: Sequence[Trial], looks: dict[int, Look]) -> Record | None:
    """The hypervolume of several objectives; the best by the first one otherwise, or while the sweep runs."""
    if sweep["hypervolume"]:
        shares = [row["value"] for row in sweep["hypervolume"]]
        name = "hypervolume of the front, share of the box"
        return {"name": "Front so far", "drawing": sweep_time_svg.history([], shares, name, "")}
    objective = sweep["objectives"][0]
    metric, better = objective["metric"], max if objective["goal"] == "max" else min
    ended = [trial for trial in order if trial["status"] in ("done", "stopped") and known(trial["values"].get(metric))]
    ended.sort(key=lambda trial: trial["ended"])
    if not ended:
        return None
    found = [(looks[trial["number"]], trial["values"][metric]) for trial in ended]
    best = [better(value for _, value in found[: place + 1]) for place in range(len(found))]
    name = sweep_svg.axis_name(objective)
    return {"name": "Best so far", "drawing": sweep_time_svg.history(found, best, name, metric)}


def draw_front(sweep: Record, order: Sequence[Trial], looks: dict[int, Look]) -> Markup | None:
    """The first two objectives against each other."""
    if len(sweep["objectives"]) < 2:
        return None
    first, second = (objective["metric"] for objective in sweep["objectives"][:2])
    points = [
        (looks[trial["number"]], trial["values"][first], trial["values"][second])
        for trial in order
        if costs(trial, sweep["objectives"][:2])
    ]
    return sweep_svg.pareto(points, sweep["front"], sweep["objectives"]) if points else None


def draw_timeline(sweep: Record, looks: dict[int, Look]) -> Markup | None:
    spans = [
        sweep_time_svg.Span(looks[trial["number"]], span["node"], span["started"], span["ended"])
        for trial in sweep["trials"]
        for span in trial["spans"]
    ]
    return sweep_time_svg.timeline(spans, sweep["nodes"]) if spans else None
