"""The rows worth looking at: what the model is sure of and right, and what it got most wrong."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayml.ml.schema import ImageFeature, Schema
from rayml.ml.shards import ShardSet
from rayml.stages.evaluate.predict import Predictions

SHOWN = 12
"""At most so many right answers, and as many wrong ones."""
TOP = 3
PIXELS = 96
"""Longer side of a picture in the report; 24 pictures stay below 1 MB."""


def pick_samples(schema: Schema, rows: ShardSet, predictions: Predictions) -> list[dict[str, Any]]:
    """Wrong answers first, the worst at the head, then confident right ones of every class in turn."""
    picked = np.concatenate(
        [worst_wrong(rows.labels, predictions)[:SHOWN], confident_right(rows.labels, predictions)[:SHOWN]]
    )
    features, labels = rows.gather(picked)
    return [
        {
            "sample_id": int(rows.sample_ids[row]),
            "label": schema.classes[label],
            "predicted": schema.classes[predictions.classes[row]],
            "probability": float(predictions.probabilities[row, predictions.classes[row]]),
            "top": top_classes(schema, predictions.probabilities[row]),
            **show(schema, feature),
        }
        for row, feature, label in zip(picked.tolist(), features, labels.tolist(), strict=True)
    ]


def worst_wrong(labels: NDArray[np.int64], predictions: Predictions) -> NDArray[np.int64]:
    """Rows answered wrongly, the least probability for the true class first."""
    rows = np.flatnonzero(predictions.classes != labels)
    return rows[np.argsort(predictions.probabilities[rows, labels[rows]], kind="stable")]


def confident_right(labels: NDArray[np.int64], predictions: Predictions) -> NDArray[np.int64]:
    """Rows answered rightly: the surest of each class, then the second surest of each, and so on."""
    rows = np.flatnonzero(predictions.classes == labels)
    sure = rows[np.argsort(-predictions.probabilities[rows, labels[rows]], kind="stable")]
    turn = np.empty(len(sure), dtype=np.int64)
    for name in np.unique(labels[sure]):
        mine = labels[sure] == name
        turn[mine] = np.arange(mine.sum())
    return sure[np.lexsort((labels[sure], turn))]


def top_classes(schema: Schema, probabilities: NDArray[np.float32]) -> list[tuple[str, float]]:
    """The most probable classes with their probabilities."""
    order = np.argsort(-probabilities, kind="stable")[:TOP]
    return [(schema.classes[index], float(probabilities[index])) for index in order.tolist()]


def show(schema: Schema, feature: NDArray[Any]) -> dict[str, Any]:
    """The row as a person sees it: a picture, or the columns with their values."""
    if isinstance(schema.feature, ImageFeature):
        return {"image": png_uri(feature)}
    # A NaN is an empty field of the source; JSON knows it as null.
    values = [None if np.isnan(value) else float(value) for value in feature]
    return {"record": dict(zip(schema.feature.columns, values, strict=True))}


def png_uri(image: NDArray[np.uint8]) -> str:
    """`[height, width, channels] uint8` as a data URI. Small images grow by a whole factor, so pixels stay square."""
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    longer = max(picture.size)
    if longer > PIXELS:
        picture.thumbnail((PIXELS, PIXELS))
    else:
        factor = PIXELS // longer
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
