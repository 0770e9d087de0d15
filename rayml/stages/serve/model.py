"""The model behind an endpoint: one ONNX file with its schema, and the ONNX Runtime session that answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from rayml.errors import StageError
from rayml.ml.onnx_check import check_file
from rayml.ml.onnx_session import SESSION, SessionNote, open_session
from rayml.ml.schema import Schema

MODEL_FILE = "model.onnx"
LABEL, PROBABILITIES = "label", "probabilities"
OUTPUTS = (LABEL, PROBABILITIES)
_ONNX_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ServedModel:
    """A loaded model. `infer` may be called from any thread."""

    name: str
    version: str
    run: str
    """The run that exported it."""
    schema: Schema
    session: Any
    """An onnxruntime.InferenceSession."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as a binary tensor."""
        feature = self.schema.feature
        return int(np.prod(feature.shape)) * np.dtype(feature.dtype).itemsize

    def infer(self, rows: Array, outputs: tuple[str, ...] = OUTPUTS) -> list[Array]:
        """The outputs by name, in the order asked for.

        Args:
            rows: `[n, *feature.shape]` in the feature's dtype, n >= 1.

        Returns:
            `label` as `[n]` str objects, `probabilities` as `[n, classes] float32`.
        """
        answer: list[Array] = self.session.run(outputs, {self.schema.feature.name: rows})
        return answer


def load_model(folder: Path, *, threads: int) -> ServedModel:
    """Load `model.onnx` of an export artifact and run it once.

    Args:
        threads: what one inference may use at a time; the processors of the replica.

    Raises:
        StageError: the file is missing, damaged, or has another signature than its schema says.
    """
    path = folder / MODEL_FILE
    about = {entry.key: entry.value for entry in check_file(path).metadata_props}
    text = about.get("rayml")
    if text is None:
        raise StageError(
            "the model has no `rayml` metadata, so its classes and input are unknown",
            where=str(path),
            hint="serve a file that `rayml run` exported",
        )
    try:
        document = json.loads(text)
        note = SessionNote.model_validate_json(about[SESSION]) if SESSION in about else None
        model = ServedModel(
            name=document["model"],
            version=document["version"],
            run=document["run"],
            schema=Schema.model_validate(document["schema"]),
            session=open_for_serving(path, threads, note),
        )
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise StageError(
            f"the model's `rayml` metadata cannot be read: {error}", where=str(path), hint="export the model again"
        ) from error
    _check_signature(model, path)
    model.infer(np.zeros((1, *model.schema.feature.shape), model.schema.feature.dtype))
    return model


def open_for_serving(path: Path, threads: int, note: SessionNote | None) -> Any:
    """A session with what the file says that it is fastest with, on no more threads than the replica has."""
    # Spinning threads take the processors that the HTTP server and the other replicas need.
    if note is None:
        return open_session(path, threads=threads, spinning=False)
    return open_session(
        path, threads=min(threads, note.threads), spinning=False, arena=note.arena, execution=note.execution
    )


def _check_signature(model: ServedModel, path: Path) -> None:
    """The tensors of the file are those of its schema."""
    feature, classes = model.schema.feature, len(model.schema.classes)
    inputs = {tensor.name: (tensor.type, tensor.shape[1:]) for tensor in model.session.get_inputs()}
    expected = {feature.name: (_ONNX_TYPES[feature.dtype], list(feature.shape))}
    if inputs != expected:
        raise StageError(f"the model takes {inputs}, its schema says {expected}", where=str(path), hint="export again")
    outputs = {tensor.name: (tensor.type, len(tensor.shape)) for tensor in model.session.get_outputs()}
    wanted = {LABEL: ("tensor(string)", 1), PROBABILITIES: ("tensor(float)", 2)}
    if outputs != wanted:
        raise StageError(f"the model gives {outputs}, wanted {wanted}", where=str(path), hint="export again")
    width = model.session.get_outputs()[[*outputs].index(PROBABILITIES)].shape[1]
    if isinstance(width, int) and width != classes:
        raise StageError(f"the model gives {width} probabilities for {classes} classes", where=str(path))
