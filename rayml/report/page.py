"""The record as one HTML file that needs nothing beside it: no network, no script, no font."""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rayml.artifacts.durable import write_atomic
from rayml.artifacts.store import Store
from rayml.redact.text import cleaned
from rayml.report import svg, view, words
from rayml.report.compress_view import compress_view, header_tiles
from rayml.report.record import Record, collect
from rayml.report.sweep_view import sweep_view

REPORT_FILE = "report.html"
RECORD_FILE = "report.json"

SECTIONS = {
    "promises": "Checkpoint to endpoint",
    "metrics": "Metrics and gates",
    "curves": "Learning curves",
    "speed": "Training speed",
    "confusion": "Confusion matrix",
    "classes": "Per class",
    "samples": "Samples",
    "data": "Data",
    "plan": "Resolved plan",
    "times": "Where the time went",
    "lineage": "Lineage",
    "environment": "Environment",
}
"""Anchor and title, in the order of the page."""
OPTIONAL = {"sweep": "Sweep", "compress": "Compression"}
"""Sections of jobs that have such a part, in the order of the page."""
OPTIONAL_AFTER = "metrics"


def write_report(run_folder: Path, store: Store) -> Path:
    """Write report.html and report.json into the folder of a run; the path of the page.

    Raises:
        RaymlError: the folder holds no plan.
    """
    record: Record = cleaned(collect(run_folder, store))
    document = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(run_folder / RECORD_FILE, document.encode())
    write_atomic(run_folder / REPORT_FILE, render(record).encode())
    return run_folder / REPORT_FILE


def render(record: Record) -> str:
    """The page. Everything that comes from the record is escaped."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        number=words.number,
        power=words.power,
        percent=words.percent,
        duration=words.duration,
        size=words.size,
        moment=words.moment,
        stamp=words.stamp,
        short=words.short,
        bound=words.bound,
        metric_name=words.metric_name,
        flatten=words.flatten,
    )
    steps = record["steps"]
    return environment.get_template("report.html.j2").render(
        record=record,
        run=record["run"],
        steps=steps,
        sections=sections_of(record),
        count=words.count,
        absence=lambda stage: view.absence(record, stage),
        train=view.find_step(record, "train"),
        serve=view.find_step(record, "serve"),
        tiles=[*header_tiles(record["compress"]), *view.tiles(record)],
        strips=view.strips(record),
        charts=view.charts(record),
        speed=view.speed(record),
        confusion=view.confusion(record),
        samples=view.samples(record),
        made_with=view.made_with,
        balance=view.balance(record),
        waterfall=view.waterfall(record),
        sweep=sweep_view(record["sweep"], record["run"]["id"]),
        compress=compress_view(record["compress"], view.find_step(record, "compress")),
        lineage=svg.lineage(
            [step["name"] for step in steps],
            [list(step["inputs"]) for step in steps],
            [step["key"] for step in steps],
            decided=("tune", "train") if view.find_step(record, "tune") and view.find_step(record, "train") else None,
        ),
        environment=view.environment(record),
    )


def sections_of(record: Record) -> dict[str, str]:
    """The sections of this run's page."""
    found = {}
    for anchor, title in SECTIONS.items():
        found[anchor] = title
        if anchor == OPTIONAL_AFTER:
            found.update({name: title for name, title in OPTIONAL.items() if record[name] is not None})
    return found
