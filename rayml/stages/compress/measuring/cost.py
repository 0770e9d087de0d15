"""What a model file costs wherever it runs: bytes, parameters, and multiply-adds of one row."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, external_data_helper, helper

from rayml.ml.onnx_session import first_line

Shape = tuple[int, ...]
Shapes = list[Shape | None]

WEIGHTS = frozenset(
    value
    for name, value in TensorProto.DataType.items()
    if name.startswith(("FLOAT", "DOUBLE", "BFLOAT16", "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"))
)
BIASES = {("DequantizeLinear", 0), ("QLinearConv", 8), ("QGemm", 6)}
"""Where an int32 tensor is a bias. Elsewhere it is an index or a shape."""
SCALES = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "DynamicQuantizeMatMul": (2, 3),
    "GatherBlockQuantized": (2, 3),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "MatMulNBits": (2, 3, 4),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QAttention": (3, 4, 6, 7),
}
"""Inputs that say what a number of few bits means, and are no parameters."""
SCALED_AFTER = ("MatMulInteger", "ConvInteger")
"""The scale of their weight `x_quantized` is in a Mul behind them, as `x_scale` (onnxruntime.quantization's names)."""


def measure_cost(path: Path) -> dict[str, Any]:
    """`bytes`, `parameters`, `multiply_adds`, and `multiply_adds_why`: the reason where the number is None."""
    model = onnx.load(path)
    operations, why = multiply_adds(model)
    return {
        "bytes": file_bytes(path),
        "parameters": parameters(model),
        "multiply_adds": operations,
        "multiply_adds_why": why,
    }


def file_bytes(path: Path) -> int:
    """Bytes of the file and of the files beside it that hold its weights."""
    model = onnx.load(path, load_external_data=False)
    tensors = [*model.graph.initializer, *(tensor for tensor in constants(model.graph))]
    beside = {
        path.parent / external_data_helper.ExternalDataInfo(tensor).location
        for tensor in tensors
        if external_data_helper.uses_external_data(tensor)
    }
    return path.stat().st_size + sum(file.stat().st_size for file in beside)


def parameters(model: onnx.ModelProto) -> int:
    """Elements of the tensors of numbers that the file holds, each counted once, without those of a single element.

    Scales and zero points do not count, so that a file of few bits has as many as the one it was made from. Weights of
    MatMulNBits are K x N, however they are packed.
    """
    skipped, packed, biases = roles(model.graph)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    tensors |= {tensor.name: tensor for tensor in constants(model.graph)}
    count = 0
    for name, tensor in tensors.items():
        size = math.prod(tensor.dims)
        is_weight = tensor.data_type in WEIGHTS or name in biases
        if name in packed:
            count += packed[name]
        elif size > 1 and is_weight and name not in skipped:
            count += size
    return count


def constants(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Tensors of Constant nodes, by the name of the node's output."""
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                tensor = TensorProto()
                tensor.CopyFrom(attribute.t)
                tensor.name = node.output[0]
                yield tensor


def roles(graph: onnx.GraphProto) -> tuple[set[str], dict[str, int], set[str]]:
    """Names of scales and zero points, of packed weights with their elements, and of int32 biases."""
    skipped: set[str] = set()
    packed: dict[str, int] = {}
    biases: set[str] = set()
    for node in graph.node:
        scales = SCALES.get(node.op_type, ())
        skipped.update(name for place, name in enumerate(node.input) if place in scales)
        biases.update(name for place, name in enumerate(node.input) if (node.op_type, place) in BIASES)
        if node.op_type in SCALED_AFTER:
            skipped.add(f"{node.input[1].removesuffix('_quantized')}_scale")
        if node.op_type == "MatMulNBits":
            packed[node.input[1]] = attribute(node, "K") * attribute(node, "N")
    return skipped, packed, biases


def attribute(node: NodeProto, name: str, default: Any = 0) -> Any:
    """The value of a node's attribute."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def multiply_adds(model: onnx.ModelProto) -> tuple[int | None, str | None]:
    """Of convolutions, matrix products and attention for one row; None with a reason where that is unknown.

    Activations, norms and pooling do not count, nor do the nodes inside of If, Loop and Scan.
    """
    counted = [node for node in model.graph.node if node.op_type in COUNTS]
    try:
        shapes = shapes_of(model, {name for node in counted for name in (*node.input, *node.output) if name})
    except Exception as error:  # onnxruntime's errors share no base class
        return None, f"the model does not run without its own optimizations: {first_line(error)}"
    total = 0
    for node in counted:
        inputs: Shapes = [shapes.get(name) for name in node.input]
        count = COUNTS[node.op_type](node, inputs, shapes.get(node.output[0]))
        if count is None:
            return None, f"the shapes around {node.name or node.op_type} are not known"
        total += count
    return total, None


def shapes_of(model: onnx.ModelProto, names: set[str]) -> dict[str, Shape]:
    """Shapes of tensors for a batch of one row.

    The model answers one row of zeros: the shape inference of onnx knows no operator of com.microsoft, and no reshape
    by a computed shape.
    """
    import onnxruntime

    known: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name not in known:
            kind = value.type.tensor_type
            shape = tuple(size.dim_value or 1 for size in kind.shape.dim)
            feeds[value.name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))
            known[value.name] = shape
    made = {name for node in model.graph.node for name in node.output} & names
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(made))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not made:
        return known
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exposed.onnx"
        onnx.save_model(exposed, path, save_as_external_data=exposed.ByteSize() > 2**30)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        values = session.run(sorted(made), feeds)
    return known | {name: np.shape(value) for name, value in zip(sorted(made), values, strict=True)}


def convolution(weight: int) -> Callable[[NodeProto, Shapes, Shape | None], int | None]:
    """Each output is a sum over the weights of its own channel."""

    def count(_: NodeProto, inputs: Shapes, output: Shape | None) -> int | None:
        kernel = inputs[weight]
        return None if kernel is None or output is None else math.prod(output) * math.prod(kernel[1:])

    return count


def transposed(_: NodeProto, inputs: Shapes, __: Shape | None) -> int | None:
    """Each input goes into as many outputs as its channel has weights."""
    rows, kernel = inputs[0], inputs[1]
    return None if kernel is None or rows is None else math.prod(rows) * math.prod(kernel[1:])


def product(node: NodeProto, inputs: Shapes, output: Shape | None) -> int | None:
    """Each output is a sum over the columns of the left matrix."""
    left = inputs[0]
    if left is None or output is None:
        return None
    return math.prod(output) * left[-2 if attribute(node, "transA") and len(left) > 1 else -1]


def packed_product(node: NodeProto, _: Shapes, output: Shape | None) -> int | None:
    return None if output is None else math.prod(output) * int(attribute(node, "K"))


def attention(_: NodeProto, inputs: Shapes, output: Shape | None) -> int | None:
    """com.microsoft.Attention: one product for query, key and value, then scores and their sums.

    rows `[batch, tokens, width]`, weights `[width, 3 x inner]`, output `[batch, tokens, inner]`.
    """
    rows, weights = inputs[0], inputs[1]
    if rows is None or weights is None or output is None:
        return None
    batch, tokens, width = rows
    return batch * tokens * (width * weights[1] + 2 * tokens * output[-1])


def bare_attention(_: NodeProto, inputs: Shapes, output: Shape | None) -> int | None:
    """Query `[batch, tokens, inner]` or `[batch, heads, tokens, size]` with key and value that are given."""
    query, key = inputs[0], inputs[1]
    if query is None or key is None or output is None:
        return None
    return (math.prod(query) + math.prod(output)) * key[-2]


COUNTS: dict[str, Callable[[NodeProto, Shapes, Shape | None], int | None]] = {
    "Conv": convolution(1),
    "FusedConv": convolution(1),
    "NhwcFusedConv": convolution(1),
    "ConvInteger": convolution(1),
    "QLinearConv": convolution(3),
    "ConvTranspose": transposed,
    "Gemm": product,
    "FusedGemm": product,
    "QGemm": product,
    "MatMul": product,
    "FusedMatMul": product,
    "MatMulInteger": product,
    "MatMulIntegerToFloat": product,
    "DynamicQuantizeMatMul": product,
    "QLinearMatMul": product,
    "MatMulNBits": packed_product,
    "QAttention": attention,
    "Attention": lambda node, inputs, output: (
        attention(node, inputs, output) if node.domain == "com.microsoft" else bare_attention(node, inputs, output)
    ),
    "MultiHeadAttention": bare_attention,
}
