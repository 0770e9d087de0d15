"""`POST /predict`: raw records as people have them (JSON, an image file, a form with one file) to typed answers."""

from __future__ import annotations

import base64
import binascii
import difflib
import re
from typing import Any

import numpy as np

from rayml.ml.images import decode_image
from rayml.ml.schema import ImageFeature, VectorFeature
from rayml.stages.serve.model import OUTPUTS, ServedModel
from rayml.stages.serve.protocol import Wanted, check_answer, check_input
from rayml.stages.serve.tensors import Array, check_rows, flatten, quote, to_numbers
from rayml.stages.serve.wire import Refusal, Request, Response, json_response, load_json

FORM = "multipart/form-data"
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_FILE_NAME = re.compile(rb"^content-disposition:[^\r\n]*;\s*filename\*?=", re.IGNORECASE | re.MULTILINE)


def predict(model: ServedModel, request: Request, max_rows: int) -> Response:
    """Answer `{"predictions": [{"label", "probability", "probabilities": {class: p}}], "model", "version"}`.

    Raises:
        Refusal: whatever is wrong with the request, naming the record.
    """
    rows = _rows(model, request, max_rows)
    check_input(model, "record", rows)
    labels, probabilities = model.infer(rows)
    check_answer([Wanted(name, False) for name in OUTPUTS], [labels, probabilities])
    classes = model.schema.classes
    predictions = []
    for label, row in zip(labels.tolist(), probabilities.tolist(), strict=True):
        by_class = dict(zip(classes, row, strict=True))
        predictions.append({"label": label, "probability": by_class[label], "probabilities": by_class})
    return json_response({"predictions": predictions, "model": model.name, "version": model.version})


def _rows(model: ServedModel, request: Request, max_rows: int) -> Array:
    """`[n, *feature.shape]` in the feature's dtype."""
    feature = model.schema.feature
    kind = request.media_type()
    if kind.startswith("image/") or kind == FORM:
        if not isinstance(feature, ImageFeature):
            raise Refusal(415, f"{kind}: this model takes rows of a table, as JSON")
        data = request.body if kind != FORM else _form_file(request)
        return _decode("the image", data, feature)[np.newaxis]
    records = _records(load_json(request.body), feature)
    check_rows("instances", len(records), max_rows)
    if isinstance(feature, ImageFeature):
        return np.stack([_image(f"record {index}", record, feature) for index, record in enumerate(records)])
    missing = model.schema.normalization.missing is not None
    return _table(records, feature, missing_allowed=missing)


def _records(document: Any, feature: ImageFeature | VectorFeature) -> list[Any]:
    """The records of `{"instances": [...]}`, or the document as the only one."""
    if isinstance(document, dict) and isinstance(document.get("instances"), list):
        if len(document) > 1:
            others = ", ".join(quote(name) for name in list(document)[:4] if name != "instances")
            raise Refusal(400, f"beside instances there is {others}, which means nothing here")
        instances: list[Any] = document["instances"]
        return instances
    if isinstance(document, (list, dict)):
        return [document]
    raise Refusal(400, f'{quote(document)} is no record; send {{"instances": [...]}} or one {_shape_of(feature)}')


def _shape_of(feature: ImageFeature | VectorFeature) -> str:
    if isinstance(feature, ImageFeature):
        return f'image, as nested lists {list(feature.shape)} of 0..255 or {{"b64": "..."}} of an image file'
    return f"row, as an object or a list of {len(feature.columns)} numbers"


def _image(where: str, record: Any, feature: ImageFeature) -> Array:
    """`[height, width, channels] uint8`."""
    if isinstance(record, dict):
        text = record.get("b64")
        if not isinstance(text, str) or len(record) != 1:
            raise Refusal(400, f"{where}: is no {_shape_of(feature)}")
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise Refusal(400, f"{where}: b64 is not base64") from None
        return _decode(where, data, feature)
    if not isinstance(record, list):
        raise Refusal(400, f"{where}: {quote(record)} is no {_shape_of(feature)}")
    flat, shape = flatten(record)
    without_channel = feature.channels == 1 and shape == feature.shape[:2]
    if shape != feature.shape and not without_channel:
        raise Refusal(400, f"{where}: nested lists of shape {list(shape)}; this model takes {list(feature.shape)}")
    return to_numbers(where, flat, "uint8").reshape(feature.shape)


def _decode(where: str, data: bytes, feature: ImageFeature) -> Array:
    try:
        return decode_image(data, feature.height, feature.width, feature.channels)
    except ValueError as error:
        raise Refusal(400, f"{where}: {error}") from None


def _table(records: list[Any], feature: VectorFeature, *, missing_allowed: bool) -> Array:
    """`[n, columns] float32`, NaN where a value is null."""
    rows = [_row(f"record {index}", record, feature.columns) for index, record in enumerate(records)]
    values = np.empty((len(rows), len(feature.columns)), np.float32)
    for index, row in enumerate(rows):
        absent = [position for position, value in enumerate(row) if value is None]
        if absent and not missing_allowed:
            column = feature.columns[absent[0]]
            raise Refusal(
                400, f"record {index}: {quote(column)} is null, and this model was trained without missing values"
            )
        filled = [0 if value is None else value for value in row] if absent else row
        values[index] = _numbers(f"record {index}", filled, feature.columns)
        values[index, absent] = np.nan
    return values


def _row(where: str, record: Any, columns: tuple[str, ...]) -> list[Any]:
    """The values of a record in the order of the columns."""
    if isinstance(record, list):
        if len(record) != len(columns):
            raise Refusal(400, f"{where}: {len(record)} values; this model takes {len(columns)}")
        return record
    if not isinstance(record, dict):
        raise Refusal(400, f"{where}: {quote(record)} is no row; send an object or a list of {len(columns)} numbers")
    for name in record:
        if name not in columns:
            close = difflib.get_close_matches(name[:100], columns, n=1)
            meant = f"; did you mean {quote(close[0])}?" if close else f"; the columns are {', '.join(columns)[:200]}"
            raise Refusal(400, f"{where}: no column {quote(name)}{meant}")
    for column in columns:
        if column not in record:
            raise Refusal(400, f"{where}: the column {quote(column)} is missing")
    return [record[column] for column in columns]


def _numbers(where: str, row: list[Any], columns: tuple[str, ...]) -> Array:
    for column, value in zip(columns, row, strict=True):
        if type(value) is not int and type(value) is not float:
            raise Refusal(400, f"{where}: {quote(column)} is {quote(value)}, which is not a number")
    return to_numbers(where, row, "float32")


def _form_file(request: Request) -> bytes:
    """The one file of a multipart form (RFC 7578)."""
    kind = request.headers[b"content-type"].decode("latin-1")
    match = _BOUNDARY.search(kind)
    if match is None:
        raise Refusal(400, "multipart/form-data without a boundary")
    delimiter = b"\r\n--" + (match[1] or match[2]).encode("latin-1")
    parts = (b"\r\n" + request.body).split(delimiter, 66)
    if len(parts) < 3 or not parts[-1].startswith(b"--"):
        raise Refusal(400, "the form has no part, too many, or its end is missing")
    files = []
    for part in parts[1:-1]:
        head, separator, content = part.partition(b"\r\n\r\n")
        if not separator:
            raise Refusal(400, "a part of the form has no end of its headers")
        if _FILE_NAME.search(head):
            files.append(content)
    if len(files) != 1:
        raise Refusal(400, f"the form has {len(files)} files; send one image")
    return files[0]
