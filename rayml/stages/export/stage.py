"""The export stage: one ONNX file with the preprocessing inside, held against the trained model before it is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rayml import __version__
from rayml.ml.onnx_export import relabel, session_outputs, write_onnx
from rayml.ml.schema import Schema
from rayml.ml.shards import load_schema
from rayml.ml.trained import compare, frozen_sample, load_trained, torch_probabilities
from rayml.plan.plan import Step
from rayml.stages.api import Context, Inputs, Outcome
from rayml.stages.export.latency import measure_latency

ONNX_FILE = "model.onnx"
PARITY_FILE = "parity.npz"


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Leaves `model.onnx` and `parity.npz`: frozen raw records with the probabilities of the model before this hop.

    That is the trained model, or what the compress step chose: its file is taken as it was measured.
    """
    schema = load_schema(inputs["data"].path)
    sample_ids, records = frozen_sample(inputs["data"].path, step.config["parity"]["samples"])
    torch.set_num_threads(step.resources.cpus_per_worker)
    path = context.out / ONNX_FILE
    described = metadata(step, inputs, context, schema)
    if "compress" in inputs:
        source = inputs["compress"].path / ONNX_FILE
        _, expected = session_outputs(source, schema.feature.name, records)
        relabel(source, path, described)
    else:
        model = load_trained(inputs["train"].path, schema, context.plan.code)
        expected = torch_probabilities(model, records)
        write_onnx(model, records[:2], schema, step.config["opset"], described, path, context.plan.code)
    np.savez(context.out / PARITY_FILE, sample_ids=sample_ids, inputs=records, probabilities=expected)
    labels, exported = session_outputs(path, schema.feature.name, records)

    metrics, worst = compare(sample_ids, expected, exported, labels, schema.classes)
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
