"""A function of the user's as a reading: `module:function` yields tables or dicts of arrays, in a task of its own."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from rayml.errors import RaymlError, StageError
from rayml.ml.usercode import load_callable
from rayml.spec.data import CallableSource
from rayml.stages.data.columns import choose_columns, column_types, require_column, vector_features
from rayml.stages.data.config import DataConfig
from rayml.stages.data.pictures import ImageRule, decode_column, first_shape, image_column, image_rule
from rayml.stages.data.rows import Feature, Origin, Reading, label_texts, make_block


def read_callable(source: CallableSource, config: DataConfig, code: str | None) -> Reading:
    """The function runs twice, each time in a Ray task: up to its first table to learn the columns, then to the end."""
    import ray

    describe = ray.remote(num_cpus=1, max_retries=0)(_describe_first)
    wanted, ignored = ray.get(describe.remote(source, config, code))
    origin = Origin(0, source.function)
    feature: Feature = wanted.feature if isinstance(wanted, ImageRule) else wanted
    task = partial(_read_tables, source, config, code, wanted)
    return Reading(feature, (source.function,), (origin,), (task,), ignored=ignored)


def _describe_first(source: CallableSource, config: DataConfig, code: str | None) -> tuple[Any, tuple[str, ...]]:
    for table in _tables(source, code):
        if not len(table):
            continue
        columns = column_types(table.schema, source.function)
        if config.task != "image_classification":
            vector = choose_columns(columns, config, source.function)
            used: tuple[str, ...] = vector.columns
            return vector, tuple(name for name in columns if name not in (*used, config.label))
        require_column(columns, config.label, "data.label", source.function)
        name = image_column(columns, config, source.function)
        place = Origin(0, source.function).place(0)
        rule = image_rule(name, config, partial(first_shape, table.column(name), place), place)
        return rule, tuple(column for column in columns if column not in (name, config.label))
    raise StageError("the function yields no rows", where=source.function)


def _read_tables(source: CallableSource, config: DataConfig, code: str | None, wanted: Any) -> Iterator[pa.Table]:
    origin = Origin(0, source.function)
    start = 0
    for table in _tables(source, code):
        if not len(table):
            continue
        rows = np.arange(start, start + len(table), dtype=np.int64)
        types = column_types(table.schema, source.function)
        names = [wanted.feature.name] if isinstance(wanted, ImageRule) else wanted.columns
        for name in (*names, config.label):
            require_column(types, name, "the first table", origin.place(start))
        labels = label_texts(table.column(config.label), config.label, origin, rows)
        if isinstance(wanted, ImageRule):
            features = decode_column(table.column(names[0]), wanted, partial(_place, origin, start))
        else:
            features = vector_features(table, names, origin, rows, refuse_missing=config.missing == "error")
        yield make_block(0, rows, labels, features)
        start += len(table)


def _place(origin: Origin, start: int, row: int) -> str:
    return origin.place(start + row)


def _tables(source: CallableSource, code: str | None) -> Iterator[pa.Table]:
    function = load_callable(source.function, code)
    try:
        for item in function(**source.args):
            yield _as_table(item, source.function)
    except RaymlError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise StageError(
            f"the function raised {type(error).__name__}: {error} ({frame.filename} line {frame.lineno})",
            where=source.function,
        ) from None


def _as_table(item: Any, reference: str) -> pa.Table:
    if isinstance(item, pa.Table):
        return item
    if not isinstance(item, dict):
        raise StageError(
            f"the function yields {type(item).__name__}; pyarrow Tables and dicts of arrays fit", where=reference
        )
    try:
        return pa.table({str(name): _as_column(np.asarray(value)) for name, value in item.items()})
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, TypeError) as error:
        sizes = ", ".join(f"{name} {np.shape(value)}" for name, value in item.items())
        raise StageError(f"the arrays make no table: {error}; they are {sizes}", where=reference) from None


def _as_column(array: Any) -> pa.Array:
    if array.ndim <= 1:
        return pa.array(array)
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))
