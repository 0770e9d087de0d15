"""A model as training left it, and what its answers on frozen rows are held against at every hop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rayml.ml import tasks
from rayml.ml.checkpoint import load_weights
from rayml.ml.models import Classifier, build_model
from rayml.ml.schema import Schema
from rayml.ml.shards import ShardSet

MODEL_FILE = "model.json"
LOGITS_FILE = "logits.npy"
"""What a teacher answers: `[rows, classes] float32` in the canonical order of the rows."""
BATCH = 256


def load_trained(folder: Path, schema: Schema, code: str | None) -> Classifier:
    """The best model of the train step, in evaluation mode on the CPU."""
    description = json.loads((folder / MODEL_FILE).read_text())
    model = build_model(description["model"], schema, code)
    model.load_state_dict(load_weights(folder))
    return model.eval()


def frozen_sample(data: Path, count: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Rows spread evenly over the test split: ids `[n] int64`, raw records `[n, *shape]`. The same at every call."""
    test, indices = _frozen_places(data, count)
    records, _ = test.gather(indices)
    return test.sample_ids[indices], records


def frozen_labels(data: Path, count: int) -> NDArray[np.int64]:
    """The classes of those rows, as places in the schema's list `[n]`."""
    test, indices = _frozen_places(data, count)
    return np.asarray(test.labels, np.int64)[indices]


def _frozen_places(data: Path, count: int) -> tuple[ShardSet, NDArray[np.int64]]:
    test = ShardSet.open(data, "test")
    return test, np.linspace(0, len(test) - 1, num=min(count, len(test)), dtype=np.int64)


@torch.no_grad()
def torch_probabilities(model: Classifier, records: NDArray[Any]) -> NDArray[np.float32]:
    """`[n, classes] float32` by the trained model."""
    parts = [
        tasks.probabilities(model(torch.from_numpy(records[start : start + BATCH])))
        for start in range(0, len(records), BATCH)
    ]
    return torch.cat(parts).numpy()


def compare(
    sample_ids: NDArray[np.int64],
    trained: NDArray[np.float32],
    exported: NDArray[np.float32],
    labels: list[str],
    classes: tuple[str, ...],
) -> tuple[dict[str, float], dict[str, Any]]:
    """Largest difference between two sets of probabilities, the labels that differ, and the worst sample.

    A sample with another label is worse than any without. A probability that is not a number is as far away as can be:
    it counts as a difference of infinity.
    """
    differences = np.abs(trained.astype(np.float64) - exported.astype(np.float64))
    differences[np.isnan(differences)] = np.inf
    expected = [classes[index] for index in trained.argmax(axis=1)]
    mismatches = [index for index, label in enumerate(labels) if label != expected[index]]
    row = max(mismatches or range(len(labels)), key=lambda index: differences[index].max())
    column = int(differences[row].argmax())
    worst = {
        "sample_id": int(sample_ids[row]),
        "class": classes[column],
        "expected": float(trained[row, column]),
        "got": float(exported[row, column]),
        "difference": float(differences[row, column]),
        "expected_label": expected[row],
        "got_label": labels[row],
    }
    largest = float(differences.max())
    return {"parity_max_abs_diff": largest, "parity_label_mismatches": float(len(mismatches))}, worst
