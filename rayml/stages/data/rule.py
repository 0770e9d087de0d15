"""What a table has to hold, and what its rows become: decided on the first table of a source, kept for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayml.ml.schema import VectorFeature
from rayml.stages.data.columns import choose_columns, column_types, require_column, vector_features
from rayml.stages.data.config import DataConfig
from rayml.stages.data.pictures import ImageRule, decode_column, first_shape, image_column, image_rule
from rayml.stages.data.rows import Feature, Origin, label_texts, make_block


@dataclass(frozen=True)
class RowRule:
    """The label column, and the columns that become the feature."""

    wanted: VectorFeature | ImageRule
    label: str
    refuse_missing: bool
    ignored: tuple[str, ...]
    """Columns of the first table that are not used."""

    @property
    def feature(self) -> Feature:
        return self.wanted.feature if isinstance(self.wanted, ImageRule) else self.wanted

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that become the feature."""
        return (self.wanted.feature.name,) if isinstance(self.wanted, ImageRule) else self.wanted.columns

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's feature."""
        return math.prod(self.feature.shape) * np.dtype(self.feature.dtype).itemsize

    def require(self, present: dict[str, pa.DataType], shown: str) -> None:
        """Raise a StageError that names `shown` where a later table lacks a column."""
        for name in (*self.columns, self.label):
            require_column(present, name, "the first file", shown)

    def block(self, table: pa.Table, origin: Origin, start: int) -> pa.Table:
        """The typed rows of a table, whose first is row `start` of its file.

        Raises:
            StageError: a label, number or image is not what it has to be. The rows are named.
        """
        self.require(column_types(table.schema, origin.shown), origin.shown)
        rows = np.arange(start, start + len(table), dtype=np.int64)
        labels = label_texts(table.column(self.label), self.label, origin, rows)
        features: NDArray[Any]
        if isinstance(self.wanted, ImageRule):
            column = table.column(self.wanted.feature.name)
            features = decode_column(column, self.wanted, lambda row: origin.place(start + row))
        else:
            features = vector_features(table, self.wanted.columns, origin, rows, refuse_missing=self.refuse_missing)
        return make_block(origin.file, rows, labels, features)


def row_rule(
    columns: dict[str, pa.DataType], config: DataConfig, shown: str, first_row: Callable[[str], pa.ChunkedArray]
) -> RowRule:
    """The rule for a source.

    Args:
        columns: names and types of the first table's columns.
        config: of the step.
        shown: the first file, for errors.
        first_row: the first row of a column; only asked where the shape of an image has to be looked up.

    Raises:
        StageError: a column that the job names is absent or of another kind than the task needs.
    """
    require_column(columns, config.label, "data.label", shown)
    wanted: VectorFeature | ImageRule
    if config.task == "image_classification":
        name = image_column(columns, config, shown)
        place = Origin(0, shown).place(0)
        wanted = image_rule(name, config, lambda: first_shape(first_row(name), place), place)
        used: tuple[str, ...] = (name,)
    else:
        wanted = choose_columns(columns, config, shown)
        used = wanted.columns
    ignored = tuple(name for name in columns if name not in (*used, config.label))
    return RowRule(wanted, config.label, config.missing == "error", ignored)
