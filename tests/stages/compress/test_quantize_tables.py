"""Large lookup tables are kept in 8 bits, and only the rows that are looked up become floats."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rayml.stages.compress.quantization.tables import FEWEST, in_8_bits, lookups, rounded

WIDTH = 64


def embedding(rows=FEWEST // WIDTH, also_read=False):
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(rows, WIDTH)) * rng.uniform(0.01, 10, size=(rows, 1))).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "ids"], ["found"], "words", axis=0)]
    if also_read:
        nodes.append(helper.make_node("Transpose", ["table"], ["turned"], "head"))
        nodes.append(helper.make_node("MatMul", ["found", "turned"], ["out"], "logits"))
    else:
        nodes.append(helper.make_node("Identity", ["found"], ["out"], "same"))
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3, None])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model, table


def run(model, ids):
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": ids})[0]


def test_rows_are_within_half_a_step_of_their_own_scale_and_the_file_is_a_quarter():
    model, table = embedding()
    before = model.ByteSize()
    assert in_8_bits(model) == ["words"]
    assert model.ByteSize() < 0.27 * before
    ids = np.random.default_rng(1).integers(0, len(table), (50, 3))
    found = run(model, ids)
    step = np.abs(table).max(axis=1, keepdims=True)[ids] / 127
    assert (np.abs(found - table[ids]) <= step * 0.501).all()


@pytest.mark.parametrize(("arguments", "keep"), [({"rows": 10}, ()), ({}, ("words",)), ({"also_read": True}, ())])
def test_small_kept_and_otherwise_used_tables_stay(arguments, keep):
    model, table = embedding(**arguments)
    before = model.SerializeToString()
    assert in_8_bits(model, keep) == []
    assert model.SerializeToString() == before
    assert lookups(model) == (["words"] if len(table) > 10 else [])


def test_a_row_of_zeros_stays_so():
    numbers, scales = rounded(np.array([[0.0, 0.0], [1.0, -2.0]], np.float32))
    assert numbers.tolist() == [[0, 0], [64, -127]]
    assert scales[0, 0] == 1
