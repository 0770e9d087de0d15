"""The probabilities that a model file gives for all rows of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayml.ml.onnx_session import open_session
from rayml.ml.schema import Schema
from rayml.ml.shards import ShardSet

ROWS = 256
BYTES = 16 * 2**20
"""Of raw records that are answered at once; activations are many times as large."""


def answers(onnx: Path, schema: Schema, rows: ShardSet, threads: int) -> NDArray[np.float32]:
    """Probabilities `[rows, classes] float32` by ONNX Runtime, in canonical order.

    Raises:
        StageError: the file is missing, or ONNX Runtime cannot load it.
    """
    first, _ = rows.rows(0, 1)
    step = max(1, min(ROWS, BYTES // first.nbytes))
    parts = (rows.rows(start, min(start + step, len(rows)))[0] for start in range(0, len(rows), step))
    session = open_session(onnx, threads=threads, spinning=False)
    return np.concatenate([_answer(session, schema.feature.name, part) for part in parts])


def answers_of(onnx: Path, schema: Schema, records: NDArray[Any], threads: int) -> NDArray[np.float32]:
    """Probabilities `[n, classes] float32` for raw records `[n, *shape]`."""
    return _answer(open_session(onnx, threads=threads, spinning=False), schema.feature.name, records)


def _answer(session: Any, feature: str, records: NDArray[Any]) -> NDArray[np.float32]:
    (probabilities,) = session.run(["probabilities"], {feature: records})
    return np.asarray(probabilities, dtype=np.float32)
