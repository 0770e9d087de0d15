"""The data sets that scikit-learn ships, as a reading. They are small: the driver loads them, and hands the rows on."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayml.spec.data import SklearnSource
from rayml.stages.data.columns import column_types
from rayml.stages.data.config import DataConfig
from rayml.stages.data.rows import Origin, Reading
from rayml.stages.data.rule import row_rule


def read_sklearn(source: SklearnSource, config: DataConfig) -> Reading:
    """digits as images, the others as tables with their own column and class names."""
    from sklearn import datasets

    loaded = getattr(datasets, f"load_{source.name}")()
    if source.name == "digits":
        columns = {"image": _digits_pixels(loaded.images)}
    else:
        columns = {str(name): pa.array(loaded.data[:, place]) for place, name in enumerate(loaded.feature_names)}
    classes = [str(name) for name in loaded.target_names]
    labels = pa.array([classes[target] for target in loaded.target])
    table = pa.table([*columns.values(), labels], names=[*columns, config.label])
    name = f"sklearn/{source.name}"
    origin = Origin(0, name)
    rule = row_rule(column_types(table.schema, name), config, name, lambda column: table.column(column).slice(0, 1))
    block = rule.block(table, origin, 0)
    return Reading(rule.feature, (name,), (origin,), (partial(_as_it_is, block),), ignored=rule.ignored)


def _digits_pixels(images: NDArray[Any]) -> pa.Array:
    """`[rows, 8, 8] float64` of 0 ... 16 as `[rows, 8, 8, 1] uint8` of 0 ... 255."""
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.round(images * 255 / 16).astype(np.uint8)[..., None])


def _as_it_is(block: pa.Table) -> list[pa.Table]:
    return [block]
