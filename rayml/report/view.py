"""What each section of the page shows, worked out from the record: shares, positions and sentences, no HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from rayml.report import svg, words
from rayml.report.record import Record

TABLE_CLASSES = 40
"""A confusion matrix of more classes than this is drawn as a map."""
ROOMY_CLASSES = 12
CONFUSED_PAIRS = 8

STEP_PARTS = {
    "compute": "forward and backward pass",
    "communication": "waiting for the other workers",
    "data": "reading rows",
    "optimizer": "the optimizer's step",
    "checkpoint": "waiting for checkpoints",
    "other": "the loop around it",
}
MEMORY_NAMES = {"host": "RAM", "gpu_tensors": "GPU, tensors", "gpu_reserved": "GPU, reserved"}

MADE_WITH = {"image": "image", "package_code": "rayml", "user_code": "your code"}
"""What is shown of a manifest's `made_with`; the stage's own code stands above it."""

_IMAGE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")


def absence(record: Record, stage: str) -> str:
    """Why there is nothing of a stage."""
    step = find_step(record, stage)
    if step is None:
        return f"The job has no {stage} section."
    return {
        "not reached": f"The run did not reach {stage}.",
        "failed": f"{stage} failed, so there is nothing to show.",
        "interrupted": f"The run stopped in {stage}.",
    }.get(step["status"], f"{stage} left nothing of this kind.")


def find_step(record: Record, name: str) -> Record | None:
    """A step of the record, where the job has it."""
    return next((step for step in record["steps"] if step["name"] == name), None)


def metrics_of(record: Record, name: str) -> dict[str, float]:
    """Metrics of a step's artifact; empty where there is none."""
    step = find_step(record, name)
    return step["artifact"]["metrics"] if step and step["artifact"] else {}


def tiles(record: Record) -> list[tuple[str, str, str]]:
    """The few numbers that people look for first: (name, value, remark)."""
    train, export, serve = (metrics_of(record, name) for name in ("train", "export", "serve"))
    found = []
    if "size_bytes" in export:
        found.append(("Model file", words.size(export["size_bytes"]), "ONNX"))
    if "parity_max_abs_diff" in serve:
        found.append(("Checkpoint to endpoint", words.power(serve["parity_max_abs_diff"]), "largest difference"))
    if "latency_p50_ms" in serve:
        p99 = serve.get("latency_p99_ms")
        found.append(("Latency, p50", f"{serve['latency_p50_ms']:.1f} ms", f"p99 {p99:.1f} ms" if p99 else ""))
    if "samples_per_s" in train:
        found.append(("Training", f"{train['samples_per_s']:,.0f}", "samples per second"))
    ended = sum(step["status"] in ("done", "cached") for step in record["steps"])
    found.append(("Run time", words.duration(record["run"]["seconds"]), f"{ended} of {len(record['steps'])} steps"))
    return found


def strips(record: Record) -> dict[str, Any] | None:
    """Every metric with its interval and its gate, as positions in percent of one common scale."""
    evaluation = record["evaluation"]
    if not evaluation:
        return None
    gates = {gate["metric"]: gate for gate in record["gates"] if gate["step"] == "evaluate"}
    limits = {name: float(gate["bound"].lstrip("<>= ")) for name, gate in gates.items()}
    metrics = evaluation["metrics"]
    lowest = min(
        [estimate["low"] for estimate in metrics.values()] + [limit for limit in limits.values() if limit >= 0]
    )
    start = max(0.0, math.floor((lowest - 0.02) * 20) / 20)

    def place(value: float) -> float:
        return float(round(100 * (min(max(value, start), 1.0) - start) / (1 - start), 2))

    rows = [
        {
            "name": words.metric_name(name),
            **estimate,
            "at": place(estimate["value"]),
            "from": place(estimate["low"]),
            "wide": round(place(estimate["high"]) - place(estimate["low"]), 2),
            "gate": gates.get(name),
            "limit": place(limits[name]) if name in limits else None,
        }
        for name, estimate in metrics.items()
    ]
    return {"start": start, "rows": rows}


def charts(record: Record) -> list[dict[str, Any]]:
    """Loss and accuracy over the epochs."""
    training = record["training"]
    if not training:
        return []
    history, best = training["history"], training["best"]
    losses = [_line(history, "train", "train/loss", "a"), _line(history, "val", "val/loss", "b")]
    accuracies = [_line(history, "val", "val/accuracy", "b")]
    drawn: list[dict[str, Any]] = []
    for name, lines, zero in (("Loss", losses, True), ("Accuracy", accuracies, False)):
        shown = [line for line in lines if line.points]
        if shown:
            drawing = svg.line_chart(f"{name} per epoch", shown, zero=zero, mark=_mark(best, lines, name))
            drawn.append({"name": name, "drawing": drawing})
    return drawn


def _line(history: Sequence[Record], name: str, key: str, style: str) -> svg.Line:
    return svg.Line(name, style, [(row["epoch"], row[key]) for row in history if row.get(key) is not None])


def _mark(best: Record | None, lines: Sequence[svg.Line], chart: str) -> svg.Mark | None:
    """The best epoch, with a dot in the chart that it was chosen by."""
    if best is None:
        return None
    chosen = best["metric"].endswith(chart.lower())
    return svg.Mark(best["epoch"], best["value"] if chosen else None, f"best: epoch {best['epoch']}")


def speed(record: Record) -> dict[str, Any] | None:
    """Shares of a step in their order, those of each worker, and the operators with bars."""
    profile = record["speed"]
    if not profile:
        return None
    largest = max((operator["share"] for operator in profile["operators"]), default=0) or 1
    memory = profile["workers"][0]["memory"]
    return {
        **profile,
        "shares": [(name, share, STEP_PARTS[name]) for name, share in profile["shares"].items() if share],
        "operators": [{**row, "bar": round(100 * row["share"] / largest, 1)} for row in profile["operators"]],
        "parts": [name for name in profile["shares"] if any(worker["shares"][name] for worker in profile["workers"])],
        "memory": [(name, MEMORY_NAMES.get(name, name)) for name in memory],
    }


def confusion(record: Record) -> dict[str, Any] | None:
    """The matrix as a table of shaded cells, or as a drawing, and the pairs that are confused most."""
    evaluation = record["evaluation"]
    if not evaluation:
        return None
    classes, matrix = evaluation["classes"], evaluation["confusion"]
    large = len(classes) > TABLE_CLASSES
    return {
        "classes": classes,
        "roomy": len(classes) <= ROOMY_CLASSES,
        "cell": max(20, min(26, 760 // len(classes) - 1)),
        "narrow": max(len(name) for name in classes) <= (6 if len(classes) <= ROOMY_CLASSES else 3),
        "rows": [] if large else [_cells(row, counts) for row, counts in enumerate(matrix)],
        "map": svg.confusion_map(classes, matrix) if large else None,
        "pairs": _confused(classes, matrix),
    }


def _cells(row: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Shade and style of each cell; a single mistake is still seen, however many rows the class has."""
    total = sum(counts) or 1
    cells = []
    for column, count in enumerate(counts):
        kind = "zero" if count == 0 else "hit" if column == row else "miss"
        shade = 0 if count == 0 else round(max(100 * count / total, 18))
        # From these shades on a light text reads better on a light page, and a dark text on a dark page.
        tone = "strong" if shade >= 78 else "middle" if shade >= 60 else ""
        cells.append({"count": count, "shade": shade, "style": f"{kind} {tone}".rstrip()})
    return cells


def _confused(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    pairs: list[dict[str, Any]] = [
        {"label": classes[row], "predicted": classes[column], "count": count, "rows": sum(counts)}
        for row, counts in enumerate(matrix)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:CONFUSED_PAIRS]


def samples(record: Record) -> list[tuple[str, list[Record]]]:
    """Wrong answers and right ones under a heading each. A picture that is not a PNG data URI is left out."""
    found = (record["evaluation"] or {}).get("samples", [])
    shown = [{**sample, "image": _picture(sample.get("image"))} for sample in found]
    wrong = [sample for sample in shown if sample["label"] != sample["predicted"]]
    right = [sample for sample in shown if sample["label"] == sample["predicted"]]
    return [("Most wrong", wrong), ("Most certain and right", right)]


def _picture(uri: str | None) -> str | None:
    return uri if uri and _IMAGE.fullmatch(uri) else None


def balance(record: Record) -> dict[str, Any] | None:
    """Rows per split and per class, with shares for the bars."""
    facts = record["data"] or {}
    counts: dict[str, list[int]] = facts.get("class_counts") or {}
    if not counts:
        return None
    splits = {split: sum(rows) for split, rows in counts.items()}
    rows = [
        {
            "class": name,
            "counts": [counts[split][index] for split in counts],
            "total": sum(row[index] for row in counts.values()),
        }
        for index, name in enumerate(facts["classes"])
    ]
    largest = max(row["total"] for row in rows) or 1
    for row in rows:
        row["shares"] = [round(100 * count / largest, 2) for count in row["counts"]]
    return {"splits": splits, "total": sum(splits.values()), "rows": rows}


def waterfall(record: Record) -> dict[str, Any] | None:
    """When each step ran, as positions in percent of the whole run."""
    run, span = record["run"], 0.0
    if run["started"] is not None:
        span = max(run["ended"] - run["started"], 1e-3)
    if not span:
        return None
    rows = []
    for step in record["steps"]:
        placed = step["started"] is not None
        begin = 100 * (step["started"] - run["started"]) / span if placed else 0
        wide = 100 * (step["ended"] - step["started"]) / span if placed else 0
        rows.append(
            {**step, "placed": placed, "from": round(begin, 2), "wide": round(wide, 2), "text": _took(record, step)}
        )
    ticks = [tick for tick in svg.nice_ticks(0, span) if tick <= span]
    texts = [f"{tick:g} s" if span < 60 else words.duration(tick) for tick in ticks]
    return {
        "rows": rows,
        "ticks": [(round(100 * tick / span, 2), text) for tick, text in zip(ticks, texts, strict=True)],
    }


def _took(record: Record, step: Record) -> str:
    if step["status"] == "cached":
        made = step["artifact"]["seconds"] if step["artifact"] else None
        return f"cached; took {words.duration(made)} when it was made"
    if step["status"] == "not reached":
        return "not reached"
    seconds = step["seconds"] if step["seconds"] is not None else step["ended"] - step["started"]
    text = words.duration(seconds)
    if step["name"] == "train" and record["training"] and step["status"] == "done":
        inside = sum(row.get("seconds") or 0 for row in record["training"]["history"])
        text += f", of which {words.duration(inside)} in epochs"
    if step["attempts"] > 1:
        text += f", {step['attempts']} attempts"
    return text if step["status"] == "done" else f"{step['status']} after {text}"


def made_with(step: Record) -> list[tuple[str, str]]:
    """Image and code that made a step's artifact, by their digests; empty where an older rayml made it."""
    known = step["artifact"]["made_with"] if step["artifact"] else {}
    return [(title, known[name]) for name, title in MADE_WITH.items() if name in known]


def environment(record: Record) -> list[tuple[str, str]]:
    """Name and value where all steps agree; where they do not, which step was made with what."""
    by_name: dict[str, dict[str, list[str]]] = {}
    for step, values in record["environment"].items():
        for name, value in values.items():
            by_name.setdefault(name, {}).setdefault(value, []).append(step)
    return [
        (
            name,
            next(iter(values)) if len(values) == 1 else "; ".join(f"{v} ({', '.join(s)})" for v, s in values.items()),
        )
        for name, values in by_name.items()
    ]
