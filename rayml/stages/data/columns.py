"""From the columns of a table to features: which columns are numbers, and what a wrong value is called."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rayml.errors import StageError
from rayml.ml.schema import VectorFeature
from rayml.stages.data.config import DataConfig
from rayml.stages.data.rows import NAMED_ROWS, Integers, Origin, is_text


def choose_columns(columns: Mapping[str, pa.DataType], config: DataConfig, shown: str) -> VectorFeature:
    """The columns that become the vector: those that the job names, or every column of numbers but the label.

    Args:
        columns: names and types of the source's columns.
        config: of the step.
        shown: the file they were read from, for errors.

    Raises:
        StageError: a named column is absent or holds no numbers, or there is none.
    """
    if config.columns == "auto":
        names = tuple(name for name, kind in columns.items() if name != config.label and is_number(kind))
        if not names:
            raise StageError(
                f"no column of numbers beside the label `{config.label}`; found {describe_columns(columns)}",
                where=shown,
            )
        return VectorFeature(columns=names)
    for name in config.columns:
        require_column(columns, name, "data.columns", shown)
        if name == config.label:
            raise StageError(f"`{name}` is the label and a feature at once", where="data.columns")
        if not (is_number(columns[name]) or pa.types.is_null(columns[name])):
            raise StageError(
                f"the column `{name}` holds {columns[name]}; a feature is a number",
                where=shown,
                hint="encode it as numbers, or leave it out of data.columns",
            )
    return VectorFeature(columns=config.columns)


def require_column(columns: Mapping[str, pa.DataType], name: str, asked_by: str, shown: str) -> None:
    """Raise a StageError, with what may have been meant, where a column is absent."""
    if name in columns:
        return
    close = difflib.get_close_matches(name, list(columns), n=1)
    raise StageError(
        f"no column `{name}` (from {asked_by}); found {describe_columns(columns)}",
        where=shown,
        hint=f"did you mean `{close[0]}`?" if close else "",
    )


def describe_columns(columns: Mapping[str, pa.DataType]) -> str:
    """`age (double), name (string), ...`, for errors."""
    named = [f"{name} ({kind})" for name, kind in list(columns.items())[:20]]
    return ", ".join(named) + (f", ... of {len(columns)}" if len(columns) > 20 else "") or "no columns"


def is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def column_types(schema: pa.Schema, shown: str) -> dict[str, pa.DataType]:
    """Names and types of a schema's columns; a StageError where two share a name."""
    types: dict[str, pa.DataType] = {}
    for field in schema:
        if field.name in types:
            raise StageError(f"two columns are called `{field.name}`", where=shown, hint="rename one of them")
        types[field.name] = field.type
    return types


def vector_features(
    table: pa.Table, columns: Sequence[str], origin: Origin, rows: Integers, *, refuse_missing: bool
) -> NDArray[np.float32]:
    """The named columns side by side, `[rows, columns] float32`; an empty value is NaN.

    Raises:
        StageError: a column holds no numbers, a number is infinite in float32, or a value is missing and
            `refuse_missing` says that it must not be.
    """
    types = column_types(table.schema, origin.shown)
    features = np.empty((len(rows), len(columns)), np.float32)
    for place, name in enumerate(columns):
        if not (is_number(types[name]) or pa.types.is_null(types[name])):
            kind = "text" if is_text(types[name]) else types[name]
            raise StageError(f"the column `{name}` holds {kind} here and numbers in the first file", where=origin.shown)
        with np.errstate(over="ignore"):
            features[:, place] = _numbers(table.column(name))
    _refuse_values(np.isinf(features), "is not a finite float32 number", columns, origin, rows)
    if refuse_missing:
        _refuse_values(
            np.isnan(features), "is missing", columns, origin, rows, "set data.missing to mean or median to fill it"
        )
    return features


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64] | NDArray[np.float32]:
    kind = column.type if pa.types.is_float32(column.type) else pa.float64()
    numbers: NDArray[np.float64] = pc.fill_null(pc.cast(column, kind, safe=False), float("nan")).to_numpy()
    return numbers


def _refuse_values(
    wrong: NDArray[np.bool_], what: str, columns: Sequence[str], origin: Origin, rows: Integers, hint: str = ""
) -> None:
    if not wrong.any():
        return
    places = np.argwhere(wrong)
    named = [f"row {int(rows[row])} column `{columns[column]}`" for row, column in places[:NAMED_ROWS]]
    more = f" and {len(places) - NAMED_ROWS} more" if len(places) > NAMED_ROWS else ""
    raise StageError(f"{'; '.join(named)}{more}: the value {what}", where=origin.shown, hint=hint)
