"""Hostile ONNX files, made by hand, are refused before a runtime sees them."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper, save_model

from rayml.errors import StageError
from rayml.ml.onnx_check import check_file


def write(path, op="Relu", domain="", opset=20, tensor=None):
    node = helper.make_node(op, ["x"], ["y"], name="node", domain=domain)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [tensor] if tensor is not None else [])
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


def outside(location):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_a_sound_file_passes(tmp_path):
    check_file(write(tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"op": "Evil"}, "operator `Evil` is not in opset 20"),
        ({"domain": "evil"}, "domain `evil` is unknown"),
        ({"opset": 999}, "opset 999 is unknown"),
        ({"tensor": outside("../secret")}, "outside of the model's folder"),
        ({"tensor": outside("/etc/passwd")}, "outside of the model's folder"),
        ({"tensor": outside("gone")}, "which is missing"),
        ({"tensor": TensorProto(name="w", data_type=1, dims=[2**20, 2**20])}, "claims 1,099,511,627,776 numbers"),
        ({"tensor": TensorProto(name="w", data_type=1, dims=[-1])}, "negative dimension"),
    ],
)
def test_what_is_hostile_is_refused(tmp_path, changes, said):
    with pytest.raises(StageError, match=said) as caught:
        check_file(write(tmp_path / "m.onnx", **changes))
    assert caught.value.where and caught.value.hint


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    path = write(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StageError, match="cut off"):
        check_file(path)
