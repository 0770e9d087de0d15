"""A sweep as its events tell it: trials, what was spent, which are best. The live table and the report draw from it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rayml.observe.events import Event
from rayml.plan.front import Objective, front, has_all, known, turned
from rayml.spec.tune import EPOCH_METRICS, HIGHER_IS_BETTER

Trial = dict[str, Any]
"""A trial as the sweep's artifact has it; its status is `running` until it ended."""

SECTION_FIELDS = 2
"""Fields of a value that is a whole section which are shown beside its kind."""


class SweepLog:
    """Takes a sweep's events one by one and knows how far it is."""

    def __init__(self, objectives: Iterable[Objective] = ()) -> None:
        self.trials: dict[int, Trial] = {}
        self.epochs = 0
        """Epochs of a whole trial; 0 until one has told."""
        self.state: Event = {}
        """The last `sweep` event."""
        self.nodes: list[dict[str, Any]] = []
        """A row at each change of the cluster."""
        self.decided: Event | None = None
        self.front: list[int] = []
        """Numbers of the finished trials that no other one beats in every objective."""
        self._objectives = list(objectives)

    @property
    def objectives(self) -> list[Objective]:
        """As they were told; before that, what trials report, with the goal that such a metric has by itself."""
        if self._objectives:
            return self._objectives
        ended = [trial["values"] for trial in self.trials.values() if trial["status"] == "done"]
        told = [metric for trial in self.trials.values() for metric in EPOCH_METRICS if metric in trial["values"]]
        metrics = list(ended[0]) if ended else told[:1]
        return [{"metric": metric, "goal": natural_goal(metric)} for metric in metrics]

    def take(self, event: Event) -> None:
        """Take one event; those of other kinds are none of its business."""
        kind = event["kind"]
        if kind == "trial_started":
            self._start(event)
        elif kind == "trial_epoch" and event["trial"] in self.trials:
            self._follow(self.trials[event["trial"]], event)
        elif kind == "trial_done" and event["trial"] in self.trials:
            self._end(self.trials[event["trial"]], event)
        elif kind == "sweep":
            self._count(event)
        elif kind == "decided":
            self.decided = event

    def _start(self, event: Event) -> None:
        """A trial begins, or goes on after a failure or a pause."""
        fresh = {"number": event["trial"], "values": {}, "epochs": [], "spans": [], "reason": "", "error": None}
        trial = self.trials.setdefault(event["trial"], {**fresh, "started": event["t"]})
        close_span(trial, trial["epochs"][-1]["t"] if trial["epochs"] else event["t"])
        trial.update(point=event["point"], origin=event["origin"], attempts=event["attempt"], status="running")
        trial.update(ended=None, seconds=None)
        trial["spans"].append({"node": event["node"], "started": event["t"], "ended": None})

    def _follow(self, trial: Trial, event: Event) -> None:
        """An epoch ended; one that was trained again after a failure takes the place of the first."""
        row = {"epoch": event["epoch"], **event["values"], "t": event["t"]}
        trial["epochs"] = [*(known for known in trial["epochs"] if known["epoch"] < row["epoch"]), row]
        trial["values"] = {metric: row[metric] for metric in EPOCH_METRICS if metric in row}
        trial["spans"][-1]["node"] = event.get("node") or trial["spans"][-1]["node"]
        self.epochs = max(self.epochs, event["epochs"])

    def _end(self, trial: Trial, event: Event) -> None:
        trial.update({name: event[name] for name in ("status", "values", "seconds", "reason", "error")})
        trial["ended"] = event["t"]
        close_span(trial, event["t"])
        self.front = pareto_front(self.trials.values(), self.objectives)

    def _count(self, event: Event) -> None:
        self.state = event
        self._objectives = event.get("objectives", self._objectives)
        size = {"nodes": event["nodes"], "cpus": event["cpus"]}
        if not self.nodes or any(self.nodes[-1][name] != amount for name, amount in size.items()):
            self.nodes.append({"t": event["t"], **size})


def close_span(trial: Trial, t: float) -> None:
    """The trial left its node at `t`, at the latest."""
    if trial["spans"] and trial["spans"][-1]["ended"] is None:
        trial["spans"][-1]["ended"] = max(t, trial["spans"][-1]["started"])


def natural_goal(metric: str) -> str:
    """The goal that a metric has where nobody says otherwise."""
    return "max" if metric in HIGHER_IS_BETTER else "min"


def costs(trial: Trial, objectives: Sequence[Objective]) -> list[float] | None:
    """The trial's objectives, each so that less is better; None where one is not known."""
    if not has_all(trial["values"], [objective["metric"] for objective in objectives]):
        return None
    return [-value for value in turned(trial["values"], objectives)]


def pareto_front(trials: Iterable[Trial], objectives: Sequence[Objective]) -> list[int]:
    """Numbers of the done trials that no other one beats in every objective; of one objective the best."""
    found = [(trial["number"], costs(trial, objectives)) for trial in trials if trial["status"] == "done"]
    rows = [(number, [-cost for cost in all_costs]) for number, all_costs in found if all_costs]
    return sorted(rows[place][0] for place in front([row for _, row in rows]))


def best_first(trials: Iterable[Trial], objectives: Sequence[Objective], on_front: Collection[int]) -> list[Trial]:
    """Trials of the front, then the others by the first objective; at the end those that have no value."""
    marked = on_front if len(objectives) > 1 else ()

    def place(trial: Trial) -> tuple[bool, bool, bool, float, int]:
        cost = costs(trial, objectives[:1])
        failed = trial["status"] == "failed"
        return trial["number"] not in marked, failed, not cost, cost[0] if cost else 0.0, trial["number"]

    return sorted(trials, key=place)


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Each key by as many of its last parts as tell it from the others: `lr`, `teacher.width`."""
    names = {path: path.rpartition(".")[2] for path in paths}
    parts = 1
    while any(times > 1 for times in Counter(names.values()).values()):
        parts += 1
        times = Counter(names.values())
        longer = {path: ".".join(path.split(".")[-parts:]) for path in paths}
        names = {path: longer[path] if times[name] > 1 else name for path, name in names.items()}
    return names


def value_text(value: Any) -> str:
    """A searched value as a person writes it, a section by its kind and its first fields: `adamw lr=0.001`."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        fields = [f"{name}={value_text(inner)}" for name, inner in value.items() if name != "kind"]
        shown = fields[:SECTION_FIELDS] + ["..."] * (len(fields) > SECTION_FIELDS)
        return " ".join([*([str(value["kind"])] if "kind" in value else []), *shown])
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_text, value)) + "]"
    return str(value)


def metric_text(metric: str, value: Any) -> str:
    """A metric with its unit: `0.9722`, `81.2 kB`, `1.92 ms`, `3,480/s`; a dash where there is none."""
    if not known(value):
        return "-"
    if metric == "size_bytes":
        return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value / 1e3:,.1f} kB"
    if metric.endswith("_ms"):
        return f"{value:,.2f} ms"
    if metric == "samples_per_s":
        return f"{value:,.0f}/s"
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"


def error_line(error: str) -> str:
    """The line of an error that says what it was: the last one of a traceback, the first one of another text."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    if not lines:
        return ""
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def decision_text(decision: Mapping[str, Any]) -> str:
    """`trial 7, knee of the front of 3, val/accuracy 0.9722 [0.93, 0.99], size_bytes 81.2 kB, tied with 2`."""
    said = [f"{metric} {metric_text(metric, value)}" for metric, value in decision["objectives"].items()]
    if decision.get("interval") and said:
        low, high = decision["interval"]
        said[0] += f" [{low:.4g}, {high:.4g}]"
    if decision.get("tied"):
        said.append("tied with " + ", ".join(map(str, decision["tied"])))
    return ", ".join([f"trial {decision['trial']}", decision["why"], *said])
