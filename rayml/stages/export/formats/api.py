"""What a format of a model file is. Each is a file in this folder and a line in table.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayml.errors import StageError
from rayml.ml.models import Classifier
from rayml.ml.onnx_export import reason
from rayml.ml.schema import Schema

RAYML = "rayml"
"""The key of the metadata in formats that have a place for it."""


Answers = tuple[list[str], NDArray[np.float32]]
"""A label for each row, and probabilities `[n, classes]`."""


@dataclass(frozen=True)
class Request:
    """The model to be written."""

    model: Classifier
    """In evaluation mode, on the CPU. It holds the preprocessing."""
    description: dict[str, Any]
    """Its model.json: the section `model`, with what passes have changed."""
    schema: Schema
    metadata: dict[str, Any]
    """What the file says of itself."""
    opset: int
    """Of ONNX."""
    code: str | None
    """Folder of the user's modules."""


@dataclass(frozen=True)
class Format:
    """A format of a model file."""

    file: str
    """Its name in the artifact."""
    write: Callable[[Request, Path], None]
    """Writes the file. StageError where the format has no form for the model."""
    answers: Callable[[Path, Schema, NDArray[Any], str | None], Answers]
    """For raw records `[n, *shape]`, by the format's own runtime, from the file alone; and from the folder of the
    user's modules, where the format holds no graph."""


def named(probabilities: NDArray[np.float32], schema: Schema) -> Answers:
    """With the labels of the most probable classes, for formats whose files have no names."""
    return [schema.classes[index] for index in probabilities.argmax(axis=1)], probabilities


def example(schema: Schema) -> Tensor:
    """Two raw records of zeros, since some formats keep their example: a batch of one would be taken for a constant."""
    return torch.zeros((2, *schema.feature.shape), dtype=getattr(torch, schema.feature.dtype))


def refused(what: str, error: BaseException, code: str | None, hint: str) -> StageError:
    """A format that has no form for the model, with the first line of the cause and the user's line."""
    return StageError(f"{what}: {reason(error, code)}", where="export.formats", hint=hint)
