"""`POST /v2/models/{model}/infer`: an Open Inference Protocol v2 request to its response, JSON and binary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayml.stages.serve.model import LABEL, OUTPUTS, PROBABILITIES, ServedModel
from rayml.stages.serve.tensors import (
    DATATYPES,
    Array,
    check_datatype,
    check_finite,
    check_rows,
    check_shape,
    from_binary,
    from_json,
    quote,
    to_binary,
)
from rayml.stages.serve.wire import Refusal, Request, Response, dump_json, json_response, load_json

HEADER_LENGTH = b"inference-header-content-length"
_DIGITS = re.compile(rb"[0-9]{1,18}")
_OUTPUT_DATATYPES = {LABEL: "BYTES", PROBABILITIES: "FP32"}
_UNSUPPORTED = ("shared_memory_region", "classification")
"""Triton's parameters that change what is answered. Others (priority, timeout) may be ignored."""


@dataclass(frozen=True)
class Wanted:
    """One output of the response."""

    name: str
    binary: bool


def infer(model: ServedModel, request: Request, max_rows: int) -> Response:
    """Answer one infer request.

    Raises:
        Refusal: whatever is wrong with it, naming the tensor.
    """
    header, binary = _split(request)
    if header is None:
        rows, wanted, answer_id = _raw_rows(model, binary, max_rows), [Wanted(name, True) for name in OUTPUTS], None
    else:
        answer_id = header.get("id")
        if answer_id is not None and not isinstance(answer_id, str):
            raise Refusal(400, f"id: {quote(answer_id)} is not a string")
        rows = _rows(model, header, binary, max_rows)
        wanted = _wanted(header)
    check_input(model, f"tensor `{model.schema.feature.name}`", rows)
    values = model.infer(rows, tuple(output.name for output in wanted))
    check_answer(wanted, values)
    return _response(model, answer_id, wanted, values)


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """What `GET /v2/models/{model}` says. -1 stands for any number of rows."""
    feature = model.schema.feature
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": feature.name, "datatype": DATATYPES[feature.dtype], "shape": [-1, *feature.shape]}],
        "outputs": [
            {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, len(model.schema.classes)]},
        ],
    }


def check_input(model: ServedModel, where: str, rows: Array) -> None:
    """Rows that parsed are also rows that the model can answer."""
    feature = model.schema.feature
    if feature.kind == "vector":
        missing_allowed = model.schema.normalization.missing is not None
        check_finite(where, rows, feature.columns, missing_allowed=missing_allowed)


def check_answer(wanted: list[Wanted], values: list[Array]) -> None:
    """Numbers so large that the model's answer is no number are the client's, since the model passed its gates."""
    for output, value in zip(wanted, values, strict=True):
        if output.name == PROBABILITIES and not np.isfinite(value).all():
            row = int(np.argwhere(~np.isfinite(value))[0][0])
            raise Refusal(
                400, f"row {row}: the model has no finite answer; a value is far outside what it was trained on"
            )


def _split(request: Request) -> tuple[dict[str, Any] | None, memoryview]:
    """The JSON part and the bytes behind it; None where the whole body is one tensor (length 0)."""
    body = memoryview(request.body)
    length = len(body)
    given = request.headers.get(HEADER_LENGTH)
    if given is not None:
        if not _DIGITS.fullmatch(given):
            raise Refusal(400, "Inference-Header-Content-Length is not a number of bytes")
        length = int(given)
        if length > len(body):
            raise Refusal(400, f"Inference-Header-Content-Length is {length}, the body has {len(body)} bytes")
        if length == 0:
            return None, body
    header = load_json(body[:length])
    if not isinstance(header, dict):
        raise Refusal(400, "the body is not a JSON object")
    return header, body[length:]


def _raw_rows(model: ServedModel, binary: memoryview, max_rows: int) -> Array:
    feature = model.schema.feature
    where = f"tensor `{feature.name}`"
    rows, rest = divmod(len(binary), model.row_bytes)
    if rest:
        raise Refusal(400, f"{where}: {len(binary)} bytes are no whole number of rows of {model.row_bytes} bytes")
    check_rows(where, rows, max_rows)
    return from_binary(where, binary, (rows, *feature.shape), feature.dtype)


def _rows(model: ServedModel, header: dict[str, Any], binary: memoryview, max_rows: int) -> Array:
    feature = model.schema.feature
    where = f"tensor `{feature.name}`"
    inputs = header.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise Refusal(400, f"inputs is missing, empty or no list; this model takes {where}")
    for tensor in inputs:
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise Refusal(400, "inputs holds something without a name")
        if tensor["name"] != feature.name:
            raise Refusal(400, f"tensor {quote(tensor['name'])}: no such input; this model takes {where}")
    if len(inputs) > 1:
        raise Refusal(400, f"{where}: given {len(inputs)} times")
    tensor = inputs[0]
    check_datatype(where, tensor.get("datatype"), DATATYPES[feature.dtype])
    rows = check_shape(where, tensor.get("shape"), feature.shape, max_rows)
    shape = (rows, *feature.shape)
    size = _parameters(where, tensor).get("binary_data_size")
    if size is None:
        if len(binary):
            raise Refusal(400, f"{where}: {len(binary)} bytes follow the JSON, but no binary_data_size says whose")
        return from_json(where, tensor.get("data"), shape, feature.dtype)
    if "data" in tensor:
        raise Refusal(400, f"{where}: has both data and binary_data_size")
    if type(size) is not int or size != len(binary):
        raise Refusal(400, f"{where}: binary_data_size is {quote(size)}, {len(binary)} bytes follow the JSON")
    return from_binary(where, binary, shape, feature.dtype)


def _wanted(header: dict[str, Any]) -> list[Wanted]:
    """The outputs asked for; all where none is named."""
    binary = _flag("parameters", _parameters("parameters", header), "binary_data_output", False)
    outputs = header.get("outputs")
    if outputs is None or outputs == []:
        return [Wanted(name, binary) for name in OUTPUTS]
    if not isinstance(outputs, list):
        raise Refusal(400, "outputs is no list")
    wanted = []
    for output in outputs:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in OUTPUTS:
            raise Refusal(400, f"outputs: {quote(name)} is none of {', '.join(OUTPUTS)}")
        where = f"output `{name}`"
        wanted.append(Wanted(name, _flag(where, _parameters(where, output), "binary_data", binary)))
    if len({output.name for output in wanted}) < len(wanted):
        raise Refusal(400, "outputs: one is named twice")
    return wanted


def _parameters(where: str, holder: dict[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise Refusal(400, f"{where}: parameters is no object")
    for name in _UNSUPPORTED:
        if name in parameters:
            raise Refusal(400, f"{where}: the parameter {name} is not supported")
    return parameters


def _flag(where: str, parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refusal(400, f"{where}: {name} is {quote(value)}, not true or false")
    return value


def _response(model: ServedModel, answer_id: str | None, wanted: list[Wanted], values: list[Array]) -> Response:
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output, value in zip(wanted, values, strict=True):
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": _OUTPUT_DATATYPES[output.name],
            "shape": list(value.shape),
        }
        if output.binary:
            binary.append(to_binary(value))
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = value.ravel().tolist()
        outputs.append(tensor)
    document: dict[str, Any] = {"model_name": model.name, "model_version": model.version, "outputs": outputs}
    if answer_id is not None:
        document["id"] = answer_id
    if not binary:
        return json_response(document)
    header = dump_json(document)
    return Response(
        b"".join([header, *binary]),
        headers=[(b"content-type", b"application/octet-stream"), (HEADER_LENGTH, b"%d" % len(header))],
    )
