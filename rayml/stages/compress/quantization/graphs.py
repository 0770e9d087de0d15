"""Reading and writing the ONNX graphs that the schemes change."""

from __future__ import annotations

import tempfile
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import onnx

from rayml.errors import StageError
from rayml.ml.onnx_session import SESSION
from rayml.spec.words import listed

HEAVY = ("Conv", "Gemm", "MatMul")
FLOAT_FORMS = (*HEAVY, "FusedConv", "FusedGemm", "FusedMatMul", "ConvTranspose")
INT8_FORMS = (
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "ConvInteger",
    "MatMulNBits",
)


def load_named(path: Path) -> onnx.ModelProto:
    """The model, each of whose nodes has a name."""
    model = onnx.load(path)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def heavy(model: onnx.ModelProto, ops: tuple[str, ...] = HEAVY) -> list[str]:
    """Names of the nodes of these ops that have a constant weight."""
    constants = {each.name for each in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type in ops and any(i in constants for i in node.input)]


def need(model: onnx.ModelProto, ops: tuple[str, ...], scheme: str) -> None:
    """StageError where no node of these ops has weights."""
    if heavy(model, ops):
        return
    has = ", ".join(f"{count} {op}" for op, count in Counter(n.op_type for n in model.graph.node).most_common())
    fits = "int8_static or fp16 fits convolutions" if heavy(model, ("Conv",)) else "fp16 fits any model"
    raise StageError(
        f"{scheme} changes {listed(list(ops))}, and the model has none with weights; it has {has}",
        where="compress.ladder.scheme",
        hint=fits,
    )


def matching(patterns: tuple[str, ...] | list[str], names: list[str]) -> list[str]:
    """The names that a pattern matches. StageError with the nearest names where a pattern matches none."""
    from difflib import get_close_matches

    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, names, n=3, cutoff=0.0)
            raise StageError(
                f"`{pattern}` matches no node", where="compress.ladder.keep", hint=f"the nearest are {listed(near)}"
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def save_like(model: onnx.ModelProto, parent: onnx.ModelProto, path: Path) -> None:
    """Write the model with what the parent says of itself; with which settings that one was fastest is left out."""
    del model.metadata_props[:]
    model.metadata_props.extend(entry for entry in parent.metadata_props if entry.key != SESSION)
    model.producer_name, model.producer_version = parent.producer_name, parent.producer_version
    del model.graph.value_info[:]
    onnx.save_model(model, path)


def as_run(path: Path) -> onnx.ModelProto:
    """The graph as ONNX Runtime executes it on this machine."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "run.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def node_facts(path: Path) -> dict[str, Any]:
    """How many nodes run in int8, and which with weights are left in float."""
    model = as_run(path)
    return {
        "quantized_nodes": sum(node.op_type in INT8_FORMS for node in model.graph.node),
        "float_nodes": heavy(model, FLOAT_FORMS),
    }


def weight_bytes(path: Path) -> int:
    """Bytes of the constants in the file."""
    return sum(each.ByteSize() for each in onnx.load(path).graph.initializer)
