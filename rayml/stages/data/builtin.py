"""The data sets that scikit-learn ships, as a reading. They are small: the driver loads them, and hands the rows on."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayml.errors import StageError
from rayml.spec.data import SklearnSource
from rayml.stages.data.columns import choose_columns, vector_features
from rayml.stages.data.config import DataConfig
from rayml.stages.data.pictures import image_rule
from rayml.stages.data.rows import Origin, Reading, make_block


def read_sklearn(source: SklearnSource, config: DataConfig) -> Reading:
    """digits as images, the others as tables with their own column and class names."""
    from sklearn import datasets

    name = f"sklearn/{source.name}"
    origin = Origin(0, name)
    images = source.name == "digits"
    if images != (config.task == "image_classification"):
        holds = "images" if images else "a table"
        raise StageError(f"the data set holds {holds}; the task {config.task} does not fit", where=name)
    loaded = getattr(datasets, f"load_{source.name}")()
    classes = [str(target) for target in loaded.target_names]
    labels = pa.array([classes[target] for target in loaded.target], pa.string())
    rows = np.arange(len(labels), dtype=np.int64)
    if images:
        pixels = _digits_pixels(loaded.images)
        rule = image_rule("image", config, lambda: (8, 8, 1), origin.place(0))
        block = make_block(0, rows, labels, rule.fit(pixels, origin.place(0)))
        return Reading(rule.feature, (name,), (origin,), (partial(_as_it_is, block),))
    columns = {str(column): loaded.data[:, place] for place, column in enumerate(loaded.feature_names)}
    table = pa.table(columns)
    vector = choose_columns(
        dict(zip([*table.column_names, config.label], [*table.schema.types, pa.string()], strict=True)), config, name
    )
    features = vector_features(table, vector.columns, origin, rows, refuse_missing=True)
    block = make_block(0, rows, labels, features)
    unused = tuple(column for column in columns if column not in vector.columns)
    return Reading(vector, (name,), (origin,), (partial(_as_it_is, block),), ignored=unused)


def _digits_pixels(images: NDArray[Any]) -> NDArray[np.uint8]:
    """`[rows, 8, 8] float64` of 0 ... 16 as `[rows, 8, 8, 1] uint8` of 0 ... 255."""
    return np.round(images * 255 / 16).astype(np.uint8)[..., None]


def _as_it_is(block: pa.Table) -> list[pa.Table]:
    return [block]
