"""The export stage: files with the preprocessing inside, each held against the trained model before it is kept."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rayml import __version__
from rayml.ml.divergence import where_it_begins
from rayml.ml.onnx_export import relabel, session_outputs
from rayml.ml.schema import Schema
from rayml.ml.shards import load_schema
from rayml.ml.trained import MODEL_FILE, compare, frozen_labels, frozen_sample, load_trained, torch_probabilities
from rayml.plan.plan import Step
from rayml.stages.api import Context, Inputs, Outcome
from rayml.stages.export.formats.api import Request
from rayml.stages.export.formats.onnx_file import ONNX_FILE
from rayml.stages.export.formats.table import load_format
from rayml.stages.export.latency import measure_latency

PARITY_FILE = "parity.npz"


@dataclass(frozen=True)
class Sample:
    """Frozen rows, and what the model before this hop answers for them."""

    ids: NDArray[np.int64]
    records: NDArray[Any]
    """Raw records `[n, *shape]`."""
    expected: NDArray[np.float32]
    """`[n, classes]`."""
    of_network: bool = True
    """Whether that is the network of torch, and not a file."""


@dataclass(frozen=True)
class Written:
    """A file, and how far its answers are from those of the model before."""

    format: str
    file: str
    bytes: int
    max_abs_diff: float
    label_mismatches: int
    worst: dict[str, Any]


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Leaves a file for each format, and `parity.npz`: frozen raw records with the answers that are to be given.

    Those are the trained model's. After a compress step the ONNX file is the one that was measured there, and has its
    answers to give; the other formats hold the network that it was made of, and are held against that.
    """
    schema = load_schema(inputs["data"].path)
    ids, records = frozen_sample(inputs["data"].path, step.config["parity"]["samples"])
    torch.set_num_threads(step.resources.cpus_per_worker)
    source = inputs["compress" if "compress" in inputs else "train"].path
    model = load_trained(source, schema, context.plan.code)
    sample = measured = Sample(ids, records, torch_probabilities(model, records))
    compressed = inputs["compress"].path / ONNX_FILE if "compress" in inputs else None
    if compressed is not None:
        _, expected = session_outputs(compressed, schema.feature.name, records)
        measured = Sample(ids, records, expected, of_network=False)
    request = Request(
        model=model,
        description=json.loads((source / MODEL_FILE).read_bytes()),
        schema=schema,
        metadata=metadata(step, inputs, context, schema),
        opset=step.config["opset"],
        code=context.plan.code,
    )
    written = []
    for name in step.config["formats"]:
        context.emit("note", text=f"writing {name} and holding it against the model")
        if name == "onnx" and compressed is not None:
            relabel(compressed, context.out / ONNX_FILE, request.metadata)
            written.append(check(name, request, measured, context.out))
        else:
            file = load_format(name)
            file.write(request, context.out / file.file)
            written.append(check(name, request, sample, context.out))
    kept = measured if "onnx" in step.config["formats"] else sample
    labels = frozen_labels(inputs["data"].path, len(ids))
    np.savez(context.out / PARITY_FILE, sample_ids=ids, inputs=records, probabilities=kept.expected, labels=labels)
    return outcome(step, written, schema, kept, context.out)


def check(name: str, request: Request, sample: Sample, folder: Path) -> Written:
    """Load a file in its own runtime and compare its answers."""
    file = load_format(name)
    path = folder / file.file
    labels, probabilities = file.answers(path, request.schema, sample.records, request.code)
    found, worst = compare(sample.ids, sample.expected, probabilities, labels, request.schema.classes)
    if name == "onnx" and sample.of_network:
        worst |= where_it_begins(found, request.model, path, sample.records)
    return Written(
        format=name,
        file=file.file,
        bytes=path.stat().st_size,
        max_abs_diff=found["parity_max_abs_diff"],
        label_mismatches=int(found["parity_label_mismatches"]),
        worst={**worst, "format": name},
    )


def outcome(step: Step, written: list[Written], schema: Schema, sample: Sample, folder: Path) -> Outcome:
    """The metrics are those of the format that is furthest away; sizes and latency are of the first, ONNX if there."""
    furthest = max(written, key=lambda each: (each.label_mismatches, each.max_abs_diff))
    first = next((each for each in written if each.format == "onnx"), written[0])
    metrics = {
        "parity_max_abs_diff": max(each.max_abs_diff for each in written),
        "parity_label_mismatches": float(furthest.label_mismatches),
        "size_bytes": float(first.bytes),
    }
    if first.format == "onnx":
        metrics |= measure_latency(folder / first.file, schema.feature.name, sample.records[:1])
    facts = {
        "opset": step.config["opset"],
        "inputs": [
            {"name": schema.feature.name, "datatype": schema.feature.dtype, "shape": [-1, *schema.feature.shape]}
        ],
        "outputs": [
            {"name": "label", "datatype": "string", "shape": [-1]},
            {"name": "probabilities", "datatype": "float32", "shape": [-1, len(schema.classes)]},
        ],
        "samples": len(sample.ids),
        "formats": [asdict(each) for each in written],
        "worst": furthest.worst,
    }
    return Outcome(metrics, facts)


def metadata(step: Step, inputs: Inputs, context: Context, schema: Schema) -> dict[str, Any]:
    """What the file says of itself, so that it can be served and traced without anything beside it."""
    compressed = inputs.get("compress")
    chosen = {} if compressed is None else {"key": compressed.manifest.key, "metrics": compressed.manifest.metrics}
    return {
        "rayml": __version__,
        "model": step.config["name"],
        "run": context.run,
        "version": step.key[:12],
        "opset": step.config["opset"],
        "data": {"key": step.inputs["data"], "source": inputs["data"].manifest.config["fingerprint"]},
        "train": {"key": step.inputs["train"], "metrics": inputs["train"].manifest.metrics},
        **({"compress": chosen} if chosen else {}),
        "schema": schema.model_dump(mode="json"),
    }
