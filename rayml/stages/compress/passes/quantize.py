"""`quantize`: fewer bits for each number, by onnxruntime.quantization."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from rayml.ml.models import build_model
from rayml.ml.onnx_export import write_onnx
from rayml.ml.trained import frozen_sample
from rayml.stages.compress.api import Made, Work
from rayml.stages.compress.quantization import floats, static, weights
from rayml.stages.compress.quantization.graphs import weight_bytes

SCHEMES: dict[str, Callable[[Work], dict[str, Any]]] = {
    "int8_static": lambda work: static.quantize(work, work.parent.onnx),
    "int8_dynamic": weights.dynamic,
    "int8_weights": partial(weights.blocks, bits=8),
    "int4_weights": partial(weights.blocks, bits=4),
    "fp16": floats.fp16,
    "bf16": floats.bf16,
}
LIKE_TRAIN = ("optimizer", "schedule", "batch_size")
"""What is as in the train section where nothing is written."""


def run(work: Work) -> Made:
    """Write `out/model.onnx` with fewer bits. StageError where the scheme has nothing to change or rows are too few."""
    scheme = work.config["scheme"]
    if scheme == "int8_qat":
        return trained(work)
    return Made(facts=described(work, SCHEMES[scheme](work)))


def trained(work: Work) -> Made:
    """int8 after training with rounded weights; the changed network goes on with the file."""
    finetune = work.config["finetune"]
    settings = {
        "epochs": finetune["epochs"],
        **{key: finetune[key] for key in LIKE_TRAIN if finetune[key] is not None},
        "quantize": {"per_channel": work.config["per_channel"], "activations": "uint8"},
    }
    config = work.parent.config
    start = work.parent.network(work.schema, work.code).state_dict()
    found = work.train(config, start, settings)
    network = build_model(config, work.schema, work.code)
    network.load_state_dict(found)
    parent = onnx.load(work.parent.onnx)
    metadata = json.loads({entry.key: entry.value for entry in parent.metadata_props}["rayml"])
    opset = next(entry.version for entry in parent.opset_import if not entry.domain)
    path = Path(work.out) / "float.onnx"
    write_onnx(network.eval(), frozen_sample(work.data, 2)[1], work.schema, opset, metadata, path, work.code)
    facts = static.quantize(work, path)
    path.unlink()
    return Made(config=config, weights=found, facts=described(work, facts))


def described(work: Work, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts with what every scheme says."""
    before, after = weight_bytes(work.parent.onnx), weight_bytes(work.out / "model.onnx")
    return {"scheme": work.config["scheme"], "weight_bytes": {"before": before, "after": after}, **facts}
