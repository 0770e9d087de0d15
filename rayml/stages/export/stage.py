"""The export stage: one ONNX file with the preprocessing inside, held against the trained model before it is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rayml import __version__
from rayml.ml import tasks
from rayml.ml.checkpoint import load_weights
from rayml.ml.models import Classifier, build_model
from rayml.ml.schema import Schema
from rayml.ml.shards import ShardSet, load_schema
from rayml.plan.plan import Step
from rayml.stages.api import Context, Inputs, Outcome
from rayml.stages.export.latency import measure_latency
from rayml.stages.export.onnx_file import session_outputs, write_onnx

ONNX_FILE = "model.onnx"
PARITY_FILE = "parity.npz"
BATCH = 256


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Leaves `model.onnx` and `parity.npz`: frozen raw records with the probabilities of the trained model."""
    schema = load_schema(inputs["data"].path)
    model = load_trained(inputs["train"].path, schema, context.plan.code)
    sample_ids, records = frozen_sample(inputs["data"].path, step.config["parity"]["samples"])
    trained = torch_probabilities(model, records)

    torch.set_num_threads(step.resources.cpus_per_worker)
    path = context.out / ONNX_FILE
    described = metadata(step, inputs, context, schema)
    write_onnx(model, records[:2], schema, step.config["opset"], described, path, context.plan.code)
    np.savez(context.out / PARITY_FILE, sample_ids=sample_ids, inputs=records, probabilities=trained)
    labels, exported = session_outputs(path, schema.feature.name, records)

    metrics, worst = compare(sample_ids, trained, exported, labels, schema.classes)
    metrics["size_bytes"] = float(path.stat().st_size)
    metrics |= measure_latency(path, schema.feature.name, records[:1])
    facts = {
        "opset": step.config["opset"],
        "inputs": [
            {"name": schema.feature.name, "datatype": schema.feature.dtype, "shape": [-1, *schema.feature.shape]}
        ],
        "outputs": [
            {"name": "label", "datatype": "string", "shape": [-1]},
            {"name": "probabilities", "datatype": "float32", "shape": [-1, len(schema.classes)]},
        ],
        "samples": len(sample_ids),
        "worst": worst,
    }
    return Outcome(metrics, facts)


def load_trained(folder: Path, schema: Schema, code: str | None) -> Classifier:
    """The best model of the train step, in evaluation mode on the CPU."""
    description = json.loads((folder / "model.json").read_text())
    model = build_model(description["model"], schema, code)
    model.load_state_dict(load_weights(folder))
    return model.eval()


def frozen_sample(data: Path, count: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Rows spread evenly over the test split: ids `[n] int64`, raw records `[n, *shape]`. The same at every call."""
    test = ShardSet.open(data, "test")
    indices = np.linspace(0, len(test) - 1, num=min(count, len(test)), dtype=np.int64)
    records, _ = test.gather(indices)
    return test.sample_ids[indices], records


@torch.no_grad()
def torch_probabilities(model: Classifier, records: NDArray[Any]) -> NDArray[np.float32]:
    """`[n, classes] float32` by the trained model."""
    parts = [
        tasks.probabilities(model(torch.from_numpy(records[start : start + BATCH])))
        for start in range(0, len(records), BATCH)
    ]
    return torch.cat(parts).numpy()


def metadata(step: Step, inputs: Inputs, context: Context, schema: Schema) -> dict[str, Any]:
    """What the file says of itself, so that it can be served and traced without anything beside it."""
    return {
        "rayml": __version__,
        "model": step.config["name"],
        "run": context.run,
        "version": step.key[:12],
        "opset": step.config["opset"],
        "data": {"key": step.inputs["data"], "source": inputs["data"].manifest.config["fingerprint"]},
        "train": {"key": step.inputs["train"], "metrics": inputs["train"].manifest.metrics},
        "schema": schema.model_dump(mode="json"),
    }


def compare(
    sample_ids: NDArray[np.int64],
    trained: NDArray[np.float32],
    exported: NDArray[np.float32],
    labels: list[str],
    classes: tuple[str, ...],
) -> tuple[dict[str, float], dict[str, Any]]:
    """Largest difference between two sets of probabilities, the labels that differ, and the worst sample.

    A sample with another label is worse than any without. A probability that is not a number is as far away as can be:
    it counts as a difference of infinity.
    """
    differences = np.abs(trained.astype(np.float64) - exported.astype(np.float64))
    differences[np.isnan(differences)] = np.inf
    expected = [classes[index] for index in trained.argmax(axis=1)]
    mismatches = [index for index, label in enumerate(labels) if label != expected[index]]
    row = max(mismatches or range(len(labels)), key=lambda index: differences[index].max())
    column = int(differences[row].argmax())
    worst = {
        "sample_id": int(sample_ids[row]),
        "class": classes[column],
        "expected": float(trained[row, column]),
        "got": float(exported[row, column]),
        "difference": float(differences[row, column]),
        "expected_label": expected[row],
        "got_label": labels[row],
    }
    largest = float(differences.max())
    return {"parity_max_abs_diff": largest, "parity_label_mismatches": float(len(mismatches))}, worst
