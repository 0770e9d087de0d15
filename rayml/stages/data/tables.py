"""CSV and Parquet files as readings: vectors of numbers, or images that a Parquet column holds as files."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from rayml.errors import StageError
from rayml.ml.schema import VectorFeature
from rayml.plan.sources import Listing
from rayml.stages.data.columns import (
    choose_columns,
    column_types,
    require_column,
    vector_features,
)
from rayml.stages.data.config import DataConfig
from rayml.stages.data.pictures import ImageRule, decode_column, first_shape, image_column, image_rule
from rayml.stages.data.rows import BLOCK_BYTES, Origin, Reading, label_texts, make_block

CSV_BYTES = 1 << 20
"""How much of a CSV file its columns' types are inferred from, and how much is parsed at a time."""


@dataclass(frozen=True)
class TableFile:
    """A file, or some row groups of one, with what its reading needs."""

    path: Path
    file: int
    origin: Origin
    wanted: VectorFeature | ImageRule
    label: str
    refuse_missing: bool
    row_groups: tuple[int, ...] | None = None
    """None for the whole file."""
    first_row: int = 0
    """Number of the first row of the first row group."""


def read_csv_source(listing: Listing, config: DataConfig) -> Reading:
    """CSV files: one task per group of small files, one per large file, for a CSV file cannot be cut without reading it."""
    first = listing.root / listing.files[0].name
    shown = listing.show(listing.files[0].name)
    if config.task == "image_classification":
        raise StageError("a CSV file holds no images; the task image_classification needs them", where=shown)
    columns = _csv_columns(first, shown)
    if all(pa.types.is_null(kind) for kind in columns.values()):
        raise StageError("the file has no rows", where=shown)
    feature = choose_columns(columns, config, shown)
    bools = {name: columns[name] for name in feature.columns if pa.types.is_boolean(columns[name])}
    files = _table_files(listing, config, feature)
    sizes = [file.bytes for file in listing.files]
    tasks = tuple(partial(_read_csv_files, group, bools) for group in _grouped(files, sizes))
    return _reading(listing, config, feature, columns, tasks, text_labels=True)


def read_parquet_source(listing: Listing, config: DataConfig) -> Reading:
    """Parquet files: one task per group of small files or of row groups, about BLOCK_BYTES each."""
    first = listing.root / listing.files[0].name
    shown = listing.show(listing.files[0].name)
    with _open_parquet(first, shown) as opened:
        columns = column_types(opened.schema_arrow, shown)
        wanted: VectorFeature | ImageRule
        if config.task == "image_classification":
            require_column(columns, config.label, "data.label", shown)
            name = image_column(columns, config, shown)
            place = Origin(0, shown).place(0)
            wanted = image_rule(name, config, lambda: first_shape(_first_row(opened, name, shown), place), place)
        else:
            wanted = choose_columns(columns, config, shown)
    pieces = [piece for file in _table_files(listing, config, wanted) for piece in _row_group_pieces(file)]
    tasks = tuple(
        partial(_read_parquet_files, group)
        for group in _grouped([piece for piece, _ in pieces], [size for _, size in pieces])
    )
    return _reading(listing, config, wanted, columns, tasks, text_labels=False)


def _csv_columns(path: Path, shown: str) -> dict[str, pa.DataType]:
    try:
        with _open_csv(path) as reader:
            return column_types(reader.schema, shown)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(error, path, shown) from None


def _table_files(listing: Listing, config: DataConfig, wanted: VectorFeature | ImageRule) -> list[TableFile]:
    return [
        TableFile(
            path=listing.root / file.name,
            file=number,
            origin=Origin(number, listing.show(file.name)),
            wanted=wanted,
            label=config.label,
            refuse_missing=config.missing == "error",
        )
        for number, file in enumerate(listing.files)
    ]


def _grouped(files: list[TableFile], sizes: list[int]) -> Iterator[tuple[TableFile, ...]]:
    """Neighbours in groups of at most BLOCK_BYTES; a larger one stands alone."""
    group: list[TableFile] = []
    total = 0
    for file, size in zip(files, sizes, strict=True):
        if group and total + size > BLOCK_BYTES:
            yield tuple(group)
            group, total = [], 0
        group.append(file)
        total += size
    if group:
        yield tuple(group)


def _reading(
    listing: Listing,
    config: DataConfig,
    wanted: VectorFeature | ImageRule,
    columns: dict[str, pa.DataType],
    tasks: tuple[Callable[[], Iterable[pa.Table]], ...],
    *,
    text_labels: bool,
) -> Reading:
    used = {config.label, *_feature_columns(wanted)}
    return Reading(
        feature=wanted.feature if isinstance(wanted, ImageRule) else wanted,
        names=tuple(file.name for file in listing.files),
        origins=tuple(Origin(number, listing.show(file.name)) for number, file in enumerate(listing.files)),
        tasks=tasks,
        text_labels=text_labels,
        ignored=tuple(name for name in columns if name not in used) + listing.ignored,
    )


def _read_csv_files(files: tuple[TableFile, ...], bools: dict[str, pa.DataType]) -> Iterator[pa.Table]:
    for file in files:
        names = _feature_columns(file.wanted)
        present = _csv_columns(file.path, file.origin.shown)
        for name in (*names, file.label):
            require_column(present, name, "the first file", file.origin.shown)
        types = {name: bools.get(name, pa.float64()) for name in names} | {file.label: pa.string()}
        options = pcsv.ConvertOptions(column_types=types, include_columns=list(types))
        start = 0
        try:
            with _open_csv(file.path, options) as reader:
                for batch in reader:
                    if len(batch):
                        yield _block(file, pa.Table.from_batches([batch]), start)
                    start += len(batch)
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(error, file.path, file.origin.shown) from None


def _open_csv(path: Path, convert: pcsv.ConvertOptions | None = None) -> pcsv.CSVStreamingReader:
    # A task has one CPU, and only the reader without threads says in which row an error is.
    return pcsv.open_csv(
        path,
        read_options=pcsv.ReadOptions(block_size=CSV_BYTES, use_threads=False),
        parse_options=pcsv.ParseOptions(newlines_in_values=True),
        convert_options=convert,
    )


def _block(file: TableFile, table: pa.Table, start: int) -> pa.Table:
    rows = np.arange(start, start + len(table), dtype=np.int64)
    labels = label_texts(table.column(file.label), file.label, file.origin, rows)
    if isinstance(file.wanted, ImageRule):
        column = table.column(file.wanted.feature.name)
        features = decode_column(column, file.wanted, lambda row: file.origin.place(start + row))
    else:
        features = vector_features(table, file.wanted.columns, file.origin, rows, refuse_missing=file.refuse_missing)
    return make_block(file.file, rows, labels, features)


def _open_parquet(path: Path, shown: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(error, path, shown) from None


def _first_row(opened: pq.ParquetFile, name: str, shown: str) -> pa.ChunkedArray:
    for batch in opened.iter_batches(batch_size=1, columns=[name]):
        return pa.Table.from_batches([batch]).column(name)
    raise StageError("the file has no rows", where=shown)


def _row_group_pieces(file: TableFile) -> Iterator[tuple[TableFile, int]]:
    """A small file whole, a large one by runs of row groups; each with its size in bytes."""
    size = file.path.stat().st_size
    if size <= BLOCK_BYTES:
        yield file, size
        return
    with _open_parquet(file.path, file.origin.shown) as opened:
        metadata = opened.metadata
    first_row = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        yield replace(file, row_groups=(number,), first_row=first_row), group.total_byte_size
        first_row += group.num_rows


def _read_parquet_files(files: tuple[TableFile, ...]) -> Iterator[pa.Table]:
    for file in files:
        with _open_parquet(file.path, file.origin.shown) as opened:
            present = column_types(opened.schema_arrow, file.origin.shown)
            wanted = [*_feature_columns(file.wanted), file.label]
            for name in wanted:
                require_column(present, name, "the first file", file.origin.shown)
            batches = opened.iter_batches(
                batch_size=max(1, BLOCK_BYTES // _row_bytes(file.wanted)), row_groups=file.row_groups, columns=wanted
            )
            start = file.first_row
            try:
                for batch in batches:
                    if len(batch):
                        yield _block(file, pa.Table.from_batches([batch]), start)
                    start += len(batch)
            except (pa.ArrowInvalid, OSError) as error:
                raise _unreadable(error, file.path, file.origin.shown) from None


def _feature_columns(wanted: VectorFeature | ImageRule) -> tuple[str, ...]:
    return (wanted.feature.name,) if isinstance(wanted, ImageRule) else wanted.columns


def _row_bytes(wanted: VectorFeature | ImageRule) -> int:
    return math.prod(wanted.feature.shape) if isinstance(wanted, ImageRule) else 4 * len(wanted.columns)


def _unreadable(error: Exception, path: Path, shown: str) -> StageError:
    """What pyarrow could not read, as a person would put it: rows from 0 and after the header."""
    if isinstance(error, OSError) and error.strerror:
        return StageError(f"cannot be read: {error.strerror}", where=shown)
    text = str(error)
    row = re.search(r"Row #(\d+): (.*)", text, re.DOTALL)
    if row is None:
        return StageError(f"cannot be read: {text}", where=shown, hint="the file is damaged or not of this kind")
    column = re.search(r"In CSV column #(\d+)", text)
    name = f" column `{_csv_header(path)[int(column[1])]}`" if column else ""
    # pyarrow counts lines from 1, and the header is one of them.
    return StageError(row[2].rstrip(), where=f"{shown} row {int(row[1]) - 2}{name}")


def _csv_header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader(file))
