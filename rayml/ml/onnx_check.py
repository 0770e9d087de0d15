"""Whether an ONNX file may be handed to a runtime: read without its external data and without trusting its sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, defs, helper

from rayml.errors import StageError
from rayml.ml.schema import Schema

RUNTIME = {"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
"""Domains of ONNX Runtime's own operators, whose schemas the package onnx does not have."""
STANDARD = {"", "ai.onnx", "ai.onnx.ml"}
LARGEST = 2**40
"""Numbers in a tensor whose data lies outside of the file."""


def check_file(path: Path, schema: Schema | None = None) -> onnx.ModelProto:
    """The model, read without external data.

    Raises:
        StageError: the file is cut off, names what is unknown or outside of its folder, or claims absurd sizes.

    `schema`: the input and outputs have to be those of its rows.
    """
    if not path.is_file():
        raise StageError("there is no model file", where=str(path), hint="export the model again")
    model = parsed(path)
    check_opsets(model, path)
    for graph in graphs(model.graph):
        check_nodes(graph, model, path)
    for tensor in tensors(model):
        check_tensor(tensor, path)
    if schema is not None:
        check_signature(model, schema, path)
    return model


def refused(what: str, path: Path, hint: str = "export the model again") -> StageError:
    """The error, at this file."""
    return StageError(what, where=str(path), hint=hint)


def parsed(path: Path) -> onnx.ModelProto:
    """The model, without external data."""
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise refused("the file is no ONNX model, or is cut off", path) from error
    if not model.graph.node or not model.graph.output:
        raise refused("the file has no graph with nodes and outputs, or is cut off", path)
    return model


def check_opsets(model: onnx.ModelProto, path: Path) -> None:
    """Domains and versions are known."""
    newest = defs.onnx_opset_version()
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and not 1 <= entry.version <= newest:
            raise refused(f"opset {entry.version} is unknown; 1 to {newest} are known", path, "export an older opset")


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those in its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from graphs(inner)


def check_nodes(graph: onnx.GraphProto, model: onnx.ModelProto, path: Path) -> None:
    """Operators are known to ONNX or are ONNX Runtime's own."""
    versions = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
    local = {(function.domain, function.name) for function in model.functions}
    for node in graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) in local or domain in RUNTIME:
            continue
        if domain not in STANDARD or domain not in versions:
            raise refused(f"node `{node.name}`: operator domain `{node.domain}` is unknown", path)
        if not defs.has(node.op_type, versions[domain], domain):
            raise refused(f"node `{node.name}`: operator `{node.op_type}` is not in opset {versions[domain]}", path)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant: initializers, sparse ones, and those in attributes, of all graphs and functions."""
    nodes = [node for function in model.functions for node in function.node]
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        nodes.extend(graph.node)
    for node in nodes:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t


def check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """Its data is where it may be, and its dims are no more than that data."""
    if any(each < 0 for each in tensor.dims):
        raise refused(f"tensor `{tensor.name}` has a negative dimension: {list(tensor.dims)}", path)
    count, room = math.prod(tensor.dims), path.stat().st_size
    if tensor.data_location == TensorProto.EXTERNAL:
        room = check_external(tensor, path)
    # A number of the smallest type, of 4 bits, is half a byte.
    if count > min(2 * room, LARGEST):
        raise refused(f"tensor `{tensor.name}` claims {count:,} numbers, and its data has {room:,} bytes", path)


def check_external(tensor: onnx.TensorProto, path: Path) -> int:
    """Bytes of the file beside the model that holds the tensor."""
    location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
    folder = path.resolve().parent
    target = (folder / location).resolve()
    if not location or not target.is_relative_to(folder) or Path(location).is_absolute():
        raise refused(f"tensor `{tensor.name}` has its data outside of the model's folder: `{location}`", path)
    if not target.is_file():
        raise refused(f"tensor `{tensor.name}` has its data in `{location}`, which is missing", path)
    size: int = target.stat().st_size
    return size


def check_signature(model: onnx.ModelProto, schema: Schema, path: Path) -> None:
    """One input with the schema's name, type and shape; outputs `label` and `probabilities`."""
    constants = {each.name for each in model.graph.initializer}
    inputs = [signature(each) for each in model.graph.input if each.name not in constants]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(schema.feature.dtype))
    wanted = [(schema.feature.name, kind, [None, *schema.feature.shape])]
    if inputs != wanted:
        raise refused(f"the input is {inputs}, and the data's is {wanted}", path)
    outputs = [signature(each) for each in model.graph.output]
    answers = [("label", TensorProto.STRING, [None]), ("probabilities", TensorProto.FLOAT, [None, len(schema.classes)])]
    if outputs != answers:
        raise refused(f"the outputs are {outputs}, and should be {answers}", path)


def signature(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | None]]:
    """Name, type and shape, with None for a dynamic dimension."""
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
