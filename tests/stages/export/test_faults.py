"""What goes wrong on the way to a file is caught before the file counts; and what is right is never refused.

The wrong zero point, which only a quantized file can have, is in tests/stages/compress/test_quantize.py.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import onnx
import pytest
import torch
from onnx import numpy_helper
from stages.export.test_export import world

from rayml.ml.checkpoint import save_weights
from rayml.ml.models import build_model
from rayml.ml.shards import load_schema
from rayml.run.gates import judge
from rayml.stages.export import stage
from rayml.stages.export.formats import onnx_file

__all__ = ["world"]
GATES = {"gates": {"parity_max_abs_diff": "<= 0.0001", "parity_label_mismatches": "<= 0"}}
SQUARE = {"kind": "mlp", "hidden": [24, 24], "dropout": 0.1}
CLEAN = [
    {"kind": "mlp", "hidden": [width], "dropout": 0.2} for width in (1, 2, 3, 8, 17, 31, 64, 100, 255, 512)
] + [
    {"kind": "mlp", "hidden": [12] * depth, "dropout": 0.0} for depth in (2, 3, 4)
] + [
    {"kind": "small_cnn", "width": width, "dropout": 0.0} for width in (4, 8, 12, 28, 64)
] + [
    {"kind": "transformer", "width": 8, "depth": 1, "heads": heads, "patch": 5, "dropout": 0.0} for heads in (1, 2)
]  # fmt: skip


def export(world, model, seed=3):
    """The verdicts of the gates on what the export stage made, and what it says of the worst row."""
    step, inputs, context = world
    train = inputs["train"].path
    (train / "model.json").write_text(json.dumps({"model": model, "task": "image_classification"}))
    torch.manual_seed(seed)
    save_weights(train, build_model(model, load_schema(inputs["data"].path), None).state_dict())
    outcome = stage.run(step.model_copy(update={"policy": GATES}), inputs, context)
    verdicts = judge(step.model_copy(update={"policy": GATES}), outcome.metrics)
    return all(verdict.passed for verdict in verdicts), outcome.facts["worst"]


def normalization(request, path):
    """The file is made with the mean and the deviation of other rows."""
    model = copy.deepcopy(request.model)
    model.preprocess.offset += 5.0
    model.preprocess.scale *= 1.1
    onnx_file.write(replace(request, model=model), path)


def transposed(request, path):
    """A square weight lies the other way round."""
    model = copy.deepcopy(request.model)
    square = next(each for each in model.network if getattr(each, "weight", torch.zeros(1, 2)).shape == (24, 24))
    square.weight = torch.nn.Parameter(square.weight.T.contiguous())
    onnx_file.write(replace(request, model=model), path)


def label_map(request, path):
    """The classes are named in another order."""
    onnx_file.write(request, path)
    model = onnx.load(path)
    names = next(each for each in model.graph.initializer if each.name == "class_names")
    names.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(names)[::-1].copy(), "class_names"))
    onnx.save_model(model, path)


@pytest.mark.parametrize(
    ("fault", "named"), [(normalization, "preprocess"), (transposed, "network.4"), (label_map, "after the last layer")]
)
def test_a_fault_on_the_way_is_caught_and_the_first_layer_is_named(world, monkeypatch, fault, named):
    monkeypatch.setattr(onnx_file, "FORMAT", replace(onnx_file.FORMAT, write=fault))
    passed, worst = export(world, SQUARE)
    assert not passed
    assert worst["diverges_at"] == named


def test_twenty_exports_without_a_fault_are_all_let_through(world):
    assert len(CLEAN) == 20
    for seed, model in enumerate(CLEAN):
        passed, worst = export(world, model, seed)
        assert passed, (model, worst)
        assert "diverges_at" not in worst
