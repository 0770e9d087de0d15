"""A function of the user's as a reading: `module:function` yields tables or dicts of arrays, in a task of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from rayml.artifacts.hosts import Hosts
from rayml.errors import StageError
from rayml.ml.usercode import describe_failure, load_callable
from rayml.spec.data import CallableSource
from rayml.stages.data.columns import column_types
from rayml.stages.data.config import DataConfig
from rayml.stages.data.pipeline import finish
from rayml.stages.data.rows import Origin, Reading
from rayml.stages.data.rule import RowRule, row_rule


def read_callable(source: CallableSource, config: DataConfig, code: str | None, hosts: Hosts) -> Reading:
    """The function runs twice, each time in a Ray task: up to its first rows to learn the columns, then to the end."""
    rule: RowRule = finish([_first_rule.remote(source, config, code, hosts)])[0]
    tasks = (partial(_read_tables, source, code, hosts, rule),)
    return Reading(rule.feature, (source.function,), (Origin(0, source.function),), tasks, ignored=rule.ignored)


@ray.remote(num_cpus=1, max_retries=0)
def _first_rule(source: CallableSource, config: DataConfig, code: str | None, hosts: Hosts) -> RowRule:
    for table in _tables(source, code, hosts):
        columns = column_types(table.schema, source.function)
        return row_rule(columns, config, source.function, partial(_first_row, table))
    raise StageError("the function yields no rows", where=source.function)


def _first_row(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table.column(name).slice(0, 1)


def _read_tables(source: CallableSource, code: str | None, hosts: Hosts, rule: RowRule) -> Iterator[pa.Table]:
    start = 0
    for table in _tables(source, code, hosts):
        yield rule.block(table, Origin(0, source.function), start)
        start += len(table)


def _tables(source: CallableSource, code: str | None, hosts: Hosts) -> Iterator[pa.Table]:
    """The tables that have rows."""
    if code is not None and hosts.apart():
        hosts.fetch(Path(code))
    function = load_callable(source.function, code)
    try:
        tables = function(**source.args)
        if not isinstance(tables, Iterable):
            raise StageError(
                f"the function returned {type(tables).__name__}, which yields no tables", where=source.function
            )
        for item in tables:
            table = _as_table(item, source.function)
            if len(table):
                yield table
    except StageError:
        raise
    except (Exception, SystemExit) as error:
        raise StageError(f"the function raised {describe_failure(error, code)}", where=source.function) from None


def _as_table(item: Any, reference: str) -> pa.Table:
    if isinstance(item, pa.Table):
        return item
    if not isinstance(item, dict):
        raise StageError(
            f"the function yields {type(item).__name__}; pyarrow Tables and dicts of arrays fit", where=reference
        )
    try:
        return pa.table({str(name): _as_column(np.asarray(value)) for name, value in item.items()})
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        sizes = ", ".join(f"{name} {np.shape(value)}" for name, value in item.items())
        raise StageError(f"the arrays make no table: {error}; they are {sizes}", where=reference) from None


def _as_column(array: Any) -> pa.Array:
    if array.ndim <= 1 or not len(array):
        return pa.array(array.reshape(-1))
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))
