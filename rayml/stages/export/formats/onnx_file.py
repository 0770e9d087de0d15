"""`model.onnx`, run by ONNX Runtime: the file that is evaluated and served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rayml.ml.onnx_export import session_outputs, write_onnx
from rayml.ml.schema import Schema
from rayml.stages.export.formats.api import Answers, Format, Request, example

ONNX_FILE = "model.onnx"


def write(request: Request, path: Path) -> None:
    """Export the model with the outputs `label` and `probabilities`."""
    records = example(request.schema).numpy()
    write_onnx(request.model, records, request.schema, request.opset, request.metadata, path, request.code)


def answers(path: Path, schema: Schema, records: NDArray[Any], code: str | None) -> Answers:
    """By ONNX Runtime on one thread."""
    return session_outputs(path, schema.feature.name, records)


FORMAT = Format(ONNX_FILE, write, answers)
