"""What the record holds of a compression: its artifact's document, or how far its ladder got by the events."""

from __future__ import annotations

import json
from typing import Any

from rayml.artifacts.manifest import Artifact
from rayml.observe.events import Event
from rayml.plan.plan import Plan, Step

COMPRESS_FILE = "compress.json"
SETTINGS = ("budget", "prefer", "min_gain")

Record = dict[str, Any]


def compress_record(plan: Plan, events: list[Event], artifact: Artifact | None) -> Record | None:
    """The ladder with a row for each rung; None where the job compresses nothing."""
    step = next((step for step in plan.steps if step.name == "compress"), None)
    if step is None:
        return None
    path = artifact.path / COMPRESS_FILE if artifact is not None else None
    if path is None or not path.is_file():
        return {**document_of_events(step, events), "is_whole": False}
    document: Record = json.loads(path.read_text(encoding="utf-8"))
    return {**document, "is_whole": True}


def document_of_events(step: Step, events: list[Event]) -> Record:
    """What the artifact would hold, as far as events tell it: where nothing fits the budget, or the run ended."""
    last = {event["number"]: event for event in events if event["kind"] == "rung" and event.get("step") == step.name}
    ladder = step.config["ladder"]
    return {
        "rungs": [rung_of_event(last[number], ladder) for number in sorted(last)],
        "chosen": None,
        **{name: step.config[name] for name in SETTINGS},
    }


def rung_of_event(event: Event, ladder: list[Record]) -> Record:
    """A rung as the artifact has it; what an event does not tell is null."""
    number = event["number"]
    ended = event["status"] != "starts"
    return {
        "name": f"{number}. {event['name']}" if number else event["name"],
        "key": None,
        "config": ladder[number - 1] if 0 < number <= len(ladder) else {"kind": event["name"]},
        "seconds": None,
        "status": event["status"] if ended else "unfinished",
        "why": event.get("why", "") if ended else "the run ended before it was measured",
        "row": row_of_event(event) if ended else {},
        "pass": {},
        "diverges": None,
    }


def row_of_event(event: Event) -> Record:
    """The headline of a rung, in the places that a measured row has for it."""
    single = {"p50_ms": "latency_p50_ms", "p95_ms": "latency_p95_ms", "ratio": "speedup"}
    return {
        "bytes": event.get("size_bytes"),
        "parameters": event.get("parameters"),
        "accuracy": {"value": event.get("accuracy"), "drop": event.get("metric_drop")},
        "agreement": {"value": event.get("agreement")},
        "latency": {"1x1": {name: event.get(told) for name, told in single.items()}},
        "ram": event.get("ram_bytes"),
    }


def chosen_rung(document: Record | None) -> Record | None:
    """The candidate that goes on."""
    if document is None:
        return None
    return next((rung for rung in document["rungs"] if rung["name"] == document["chosen"]), None)


def compress_hop(step: Record, document: Record | None) -> Record:
    """From the checkpoint to the chosen candidate: answers and probabilities on the frozen rows, before and after.

    There is no tolerance: what may be lost is the budget, and a step that is done kept to it.
    """
    chosen = chosen_rung(document)
    parity = chosen["row"].get("parity", {}) if chosen else {}
    return {
        "step": step["name"],
        "kind": "measured",
        "difference": parity.get("max_abs"),
        "agreement": parity.get("agreement"),
        "tolerance": None,
        "samples": parity.get("samples"),
        "passed": True if chosen else False if step["status"] == "failed" else None,
        "worst": None,
    }
