"""The first layer that computes something else is named, for the mistakes that hops between formats make."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from stages.train.ranks import make_shards

from rayml.ml.divergence import first_divergence, first_divergence_torch
from rayml.ml.models import build_model
from rayml.ml.onnx_export import write_onnx
from rayml.ml.shards import ShardSet, load_schema
from rayml.ml.trained import frozen_sample

TOLERANCE = 0.05


class Rows(CalibrationDataReader):
    def __init__(self, records):
        self.parts = iter([{"image": records[start : start + 8]} for start in range(0, len(records), 8)])

    def get_next(self):
        return next(self.parts, None)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("divergence")
    data = make_shards(folder / "data")
    schema = load_schema(data)
    _, records = frozen_sample(data, 64)
    torch.manual_seed(3)
    model = build_model({"kind": "small_cnn", "width": 16, "dropout": 0.1}, schema, None).eval()
    path = folder / "model.onnx"
    write_onnx(model, records[:2], schema, 20, {"rayml": "0"}, path)
    train, _ = ShardSet.open(data, "train").rows(0, 64)
    quantized = folder / "int8.onnx"
    quantize_static(
        path,
        quantized,
        Rows(np.ascontiguousarray(train)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return model, path, quantized, records


def changed(path, folder, name, change):
    """A copy of the file in which one tensor is another."""
    model = onnx.load(path)
    tensor = next(each for each in model.graph.initializer if each.name == name)
    values = change(numpy_helper.to_array(tensor)).astype(numpy_helper.to_array(tensor).dtype)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
    out = folder / "changed.onnx"
    onnx.save_model(model, out)
    return out


def test_a_file_does_not_diverge_from_itself(world):
    _, path, _, records = world
    assert first_divergence(path, path, records, 0.0) is None


def test_int8_stays_within_the_tolerance_and_is_compared_everywhere(world):
    _, path, quantized, records = world
    assert first_divergence(path, quantized, records, TOLERANCE) is None
    found = first_divergence(path, quantized, records, 0.0)
    assert found["compared"] > 10
    assert 0 < found["error"] < TOLERANCE


def test_a_transposed_weight_of_a_middle_layer(world, tmp_path):
    _, path, _, records = world
    wrong = changed(path, tmp_path, "model.network.4.weight", lambda weight: weight.transpose(0, 1, 3, 2))
    found = first_divergence(path, wrong, records, TOLERANCE)
    assert (found["layer"], found["op"], found["tensor"]) == ("node_conv2d_1", "Conv", "conv2d_1")
    assert found["error"] > TOLERANCE


def test_a_wrong_mean_in_the_preprocessing(world, tmp_path):
    _, path, _, records = world
    wrong = changed(path, tmp_path, "model.preprocess.offset", lambda offset: offset + 40)
    assert first_divergence(path, wrong, records, TOLERANCE)["op"] == "Sub"


@pytest.mark.parametrize(
    ("tensor", "change", "layer"),
    [
        ("conv2d_1_scale", lambda scale: scale * 0.3, "node_conv2d_1"),
        ("conv2d_zero_point", lambda point: np.maximum(point.astype(int) - 60, 0), "node_conv2d"),
        ("model.network.4.weight_scale", lambda scale: scale[::-1] * 3, "node_conv2d_1"),
        ("model.network.10.weight_scale", lambda scale: scale * 0.5, "node_linear"),
    ],
)
def test_a_wrong_scale_or_zero_point(world, tmp_path, tensor, change, layer):
    _, path, quantized, records = world
    wrong = changed(quantized, tmp_path, tensor, change)
    assert first_divergence(path, wrong, records, TOLERANCE)["layer"] == layer


def test_other_names_are_matched_by_their_place(world, tmp_path):
    _, path, _, records = world
    wrong = changed(path, tmp_path, "model.network.4.weight", lambda weight: -weight)
    model = onnx.load(wrong)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                kept = {each.name for each in (*model.graph.initializer, *model.graph.input, *model.graph.output)}
                if name and name not in kept:
                    names[place] = f"other_{name}"
    del model.graph.value_info[:]
    onnx.save_model(model, wrong)
    assert first_divergence(path, wrong, records, TOLERANCE)["layer"] == "node_conv2d_1"


def test_a_number_that_is_none_diverges(world, tmp_path):
    _, path, _, records = world
    wrong = changed(path, tmp_path, "model.network.10.bias", lambda bias: bias * np.nan)
    found = first_divergence(path, wrong, records, TOLERANCE)
    assert (found["layer"], found["error"]) == ("node_linear", float("inf"))


def test_ranges_found_at_each_call_stay_within_the_tolerance(world, tmp_path):
    _, path, _, records = world
    plain = onnx.load(path)
    del plain.graph.value_info[:]  # quantize_dynamic transposes the weight of a Gemm and leaves the shape it had
    onnx.save_model(plain, tmp_path / "plain.onnx")
    quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "dynamic.onnx", op_types_to_quantize=["MatMul", "Gemm"])
    assert first_divergence(path, tmp_path / "dynamic.onnx", records, TOLERANCE) is None


def test_the_module_of_torch_is_named(world, tmp_path):
    model, path, _, records = world
    assert first_divergence_torch(model, path, records) is None
    wrong = changed(path, tmp_path, "model.network.4.weight", lambda weight: weight.transpose(0, 1, 3, 2))
    found = first_divergence_torch(model, wrong, records)
    assert (found["layer"], found["op"]) == ("network.4", "Conv2d")
    assert found["compared"] >= 6
    wrong = changed(path, tmp_path, "model.preprocess.scale", lambda scale: scale * 2)
    assert first_divergence_torch(model, wrong, records)["layer"] == "preprocess"


def test_layers_that_were_fused_are_compared_as_one(world, tmp_path):
    _, _, _, records = world
    data = make_shards(tmp_path / "data")
    schema = load_schema(data)
    torch.manual_seed(4)
    config = {"kind": "torchvision", "name": "resnet18", "norm": "batch", "small_images": True, "resize": None}
    model = build_model(config, schema, None)
    model(torch.from_numpy(records[:8]))
    model.eval()
    path = tmp_path / "resnet.onnx"
    write_onnx(model, records[:2], schema, 20, {"rayml": "0"}, path)
    assert first_divergence_torch(model, path, records) is None
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert first_divergence(path, tmp_path / "fused.onnx", records, 1e-4) is None, "fused nodes are no other nodes"
    name = next(each.name for each in onnx.load(path).graph.initializer if "layer3.0.conv2.weight" in each.name)
    wrong = changed(path, tmp_path, name, lambda weight: weight.transpose(0, 1, 3, 2))
    assert first_divergence_torch(model, wrong, records)["layer"] in ("network.layer3.0.conv2", "network.layer3.0.bn2")
