"""The exported model over a split, in batches: ONNX Runtime in, classes and probabilities out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayml.errors import StageError
from rayml.ml.onnx_session import first_line, open_session
from rayml.ml.schema import Schema
from rayml.ml.shards import ShardSet

BATCH_ROWS = 256
BATCH_BYTES = 16 * 2**20
"""A batch of large images is cut to this, so that memory does not follow the size of an image."""
NOTE_INTERVAL_S = 10
PROBABILITY_SLACK = 1e-3
"""How far the probabilities of a row may be from a sum of 1: float32, and models compressed to few bits."""


@dataclass(frozen=True)
class Predictions:
    """The answers of the model, row by row in the order of the split."""

    classes: NDArray[np.int64]
    """`[rows]`: the class that the model named."""
    probabilities: NDArray[np.float32]
    """`[rows, classes]`."""


def predict(model: Path, schema: Schema, rows: ShardSet, *, threads: int, note: Callable[[str], None]) -> Predictions:
    """Run a model file over every row.

    Args:
        model: an ONNX file with the schema's feature as its input, and `label [n] str` and
            `probabilities [n, classes] float32` as outputs.
        threads: processors that ONNX Runtime may use.
        note: told how far it is, now and then.

    Raises:
        StageError: the file cannot be run, or an answer is not one of the classes or not a probability.
    """
    session = open_model(model, schema, threads)
    size = max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes(schema)))
    classes = np.empty(len(rows), dtype=np.int64)
    probabilities = np.empty((len(rows), len(schema.classes)), dtype=np.float32)
    told = time.monotonic()
    for start in range(0, len(rows), size):
        part = slice(start, min(start + size, len(rows)))
        features, _ = rows.rows(part.start, part.stop)
        answers = answer(session, schema, features, model)
        classes[part], probabilities[part] = check(*answers, schema, rows.sample_ids[part], model)
        if time.monotonic() - told > NOTE_INTERVAL_S:
            note(f"{part.stop:,} of {len(rows):,} rows predicted")
            told = time.monotonic()
    return Predictions(classes, probabilities)


def open_model(model: Path, schema: Schema, threads: int) -> Any:
    """An ONNX Runtime session whose input and outputs are those of the schema."""
    session = open_session(model, threads=threads)
    found = sorted(tensor.name for tensor in [*session.get_inputs(), *session.get_outputs()])
    expected = sorted([schema.feature.name, "label", "probabilities"])
    if found != expected:
        raise StageError(
            f"the model's tensors are {', '.join(found)}; the data needs {', '.join(expected)}",
            where=str(model),
            hint="export the model from the same data step",
        )
    return session


def row_bytes(schema: Schema) -> int:
    return int(np.prod(schema.feature.shape)) * np.dtype(schema.feature.dtype).itemsize


def answer(session: Any, schema: Schema, features: NDArray[Any], model: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels `[n] str` and probabilities `[n, classes]` of one batch."""
    try:
        labels, probabilities = session.run(["label", "probabilities"], {schema.feature.name: features})
    except Exception as error:  # onnxruntime's errors share no base class
        raise StageError(
            f"the model does not run on {features.shape} {features.dtype}: {first_line(error)}",
            where=str(model),
            hint="export the model from the same data step",
        ) from error
    return labels, probabilities


def check(
    labels: NDArray[Any], probabilities: NDArray[Any], schema: Schema, sample_ids: NDArray[np.int64], model: Path
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The answers as class indices and probabilities, once they are seen to be that."""
    expected = (len(sample_ids), len(schema.classes))
    if probabilities.shape != expected or labels.shape != expected[:1]:
        raise StageError(
            f"the model gave labels {labels.shape} and probabilities {probabilities.shape}; "
            f"{expected[0]} rows of {expected[1]} classes need {expected[:1]} and {expected}",
            where=str(model),
            hint="export the model from the same data step",
        )
    sums = probabilities.sum(axis=1)
    wrong = ~((probabilities >= 0).all(axis=1) & (np.abs(sums - 1) <= PROBABILITY_SLACK))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise StageError(
            f"the probabilities of {int(wrong.sum())} rows are not probabilities; those of sample {sample_ids[row]} "
            f"sum to {sums[row]:g}, the smallest is {probabilities[row].min():g}",
            where=str(model),
            hint="the weights may hold NaN: look at the loss in the report, and train with a lower learning rate",
        )
    index = {name: position for position, name in enumerate(schema.classes)}
    unknown = sorted(set(labels.tolist()) - set(index))
    if unknown:
        raise StageError(
            f"the model answers {unknown[0]!r}, which is not a class; the classes are {', '.join(schema.classes[:20])}",
            where=str(model),
            hint="export the model from the same data step",
        )
    return np.array([index[label] for label in labels.tolist()], dtype=np.int64), probabilities
