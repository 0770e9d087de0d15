"""Tensors of the Open Inference Protocol v2: JSON data and binary data to numpy and back.

Source: https://github.com/kserve/open-inference-protocol (rest), and Triton's `extension_binary_data.md`.
"""

from __future__ import annotations

import math
import struct
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from rayml.stages.serve.wire import Refusal

Array = npt.NDArray[Any]

DATATYPES = {"bool": "BOOL", "uint8": "UINT8", "float32": "FP32", "str": "BYTES"}
"""numpy name to the protocol's name, for what rayml's models take and give."""

_WHOLE = frozenset(["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"])
KNOWN_DATATYPES = _WHOLE | {"BOOL", "FP16", "BF16", "FP32", "FP64", "BYTES"}

_MAX_DIMENSIONS = 8
_LARGEST_DIMENSION = 2**31


def check_datatype(where: str, given: object, wanted: str) -> None:
    """The tensor has the datatype that the model takes."""
    if given == wanted:
        return
    if given is None:
        raise Refusal(400, f"{where}: datatype is missing; it is {wanted}")
    if isinstance(given, str) and given in KNOWN_DATATYPES:
        raise Refusal(400, f"{where}: datatype {given}; this model takes {wanted}")
    raise Refusal(400, f"{where}: {quote(given)} is no datatype; this model takes {wanted}")


def check_shape(where: str, given: object, row: tuple[int, ...], max_rows: int) -> int:
    """The number of rows of a tensor `[rows, *row]`."""
    wanted = f"[rows, {', '.join(map(str, row))}]"
    if not isinstance(given, list) or not given:
        raise Refusal(400, f"{where}: shape is missing or no list of numbers; it is {wanted}")
    if len(given) > _MAX_DIMENSIONS:
        raise Refusal(400, f"{where}: shape has {len(given)} dimensions; it is {wanted}")
    for size in given:
        if type(size) is not int or not 0 <= size < _LARGEST_DIMENSION:
            raise Refusal(400, f"{where}: {quote(size)} is no dimension; shape is {wanted}")
    if tuple(given[1:]) != row:
        raise Refusal(400, f"{where}: shape {given}; this model takes {wanted}")
    rows: int = given[0]
    check_rows(where, rows, max_rows)
    return rows


def check_rows(where: str, rows: int, max_rows: int) -> None:
    if rows == 0:
        raise Refusal(400, f"{where}: no rows")
    if rows > max_rows:
        raise Refusal(413, f"{where}: {rows} rows; at most {max_rows} fit in one request, so send them in parts")


def from_binary(where: str, data: memoryview, shape: tuple[int, ...], dtype: str) -> Array:
    """A view of the request's bytes, without a copy."""
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    if len(data) != wanted:
        raise Refusal(400, f"{where}: {len(data)} bytes of binary data; shape {list(shape)} takes {wanted}")
    return np.frombuffer(data, dtype).reshape(shape)


def from_json(where: str, data: object, shape: tuple[int, ...], dtype: str) -> Array:
    """Numbers in row-major order, flat or nested as the shape says."""
    if not isinstance(data, list):
        raise Refusal(400, f"{where}: data is missing or no list")
    flat, found = flatten(data)
    if len(found) > 1 and found != shape:
        raise Refusal(400, f"{where}: data is nested as {list(found)}, shape is {list(shape)}")
    if len(flat) != math.prod(shape):
        raise Refusal(400, f"{where}: {len(flat)} numbers; shape {list(shape)} takes {math.prod(shape)}")
    return to_numbers(where, flat, dtype).reshape(shape)


def flatten(data: list[Any]) -> tuple[list[Any], tuple[int, ...]]:
    """The elements of evenly nested lists, and their shape.

    Level by level and without recursion, because the depth is the client's choice. Where the lists end unevenly the
    rest stays an element, which `to_numbers` then refuses.
    """
    shape = [len(data)]
    while data and len(shape) <= _MAX_DIMENSIONS and set(map(type, data)) == {list}:
        widths = set(map(len, data))
        if len(widths) != 1:
            break
        shape.append(widths.pop())
        data = list(chain.from_iterable(data))
    return data, tuple(shape)


def to_numbers(where: str, flat: list[Any], dtype: str) -> Array:
    """JSON numbers as `[n]` of a dtype: whole numbers 0..255 for uint8, finite ones for float32."""
    allowed = {int} if dtype == "uint8" else {int, float}
    if not set(map(type, flat)) <= allowed:
        index, value = next((i, v) for i, v in enumerate(flat) if type(v) not in allowed)
        kind = "a whole number" if dtype == "uint8" else "a number"
        raise Refusal(400, f"{where}: element {index} is {quote(value)}, which is not {kind}")
    if dtype == "uint8":
        try:
            return np.array(flat, np.uint8)
        except OverflowError:
            index, value = next((i, v) for i, v in enumerate(flat) if not 0 <= v <= 255)
            raise Refusal(400, f"{where}: element {index} is {quote(value)}, which is not 0..255") from None
    try:
        with np.errstate(over="ignore"):
            numbers = np.array(flat, np.float64).astype(np.float32)
    except OverflowError:
        raise Refusal(400, f"{where}: a number is too large for {DATATYPES[dtype]}") from None
    if not np.isfinite(numbers).all():
        index = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise Refusal(400, f"{where}: element {index} is {quote(flat[index])}, too large for {DATATYPES[dtype]}")
    return numbers


def check_finite(where: str, rows: Array, columns: tuple[str, ...], *, missing_allowed: bool) -> None:
    """`[rows, columns] float32` holds numbers that the model can take; NaN means "missing" where it learned that."""
    bad = np.isinf(rows) if missing_allowed else ~np.isfinite(rows)
    if bad.any():
        row, column = map(int, np.argwhere(bad)[0])
        value = "NaN, and this model was trained without missing values" if np.isnan(rows[row, column]) else "infinite"
        raise Refusal(400, f"{where}: row {row}, column {quote(columns[column])} is {value}")


def to_binary(values: Array) -> bytes:
    """Little-endian numbers; strings each with their length in 4 bytes before them."""
    if values.dtype != object:
        return values.tobytes()
    encoded = [value.encode() for value in values]
    return b"".join(part for text in encoded for part in (struct.pack("<I", len(text)), text))


def quote(value: object) -> str:
    """What the client sent, short and on one line. Lists and objects are only named: printing them could recurse."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value[:40] if isinstance(value, str) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."
