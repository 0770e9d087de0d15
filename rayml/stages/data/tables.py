"""CSV and Parquet files as readings: vectors of numbers, or images that a Parquet column holds as files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from rayml.artifacts.switches import refuse_unsafe_switches
from rayml.errors import RaymlError, StageError
from rayml.plan.listing import Listing
from rayml.stages.data.columns import column_types
from rayml.stages.data.config import DataConfig
from rayml.stages.data.files import bucket_failure, grouped, open_anywhere, open_rows
from rayml.stages.data.rows import BLOCK_BYTES, Origin, Reading
from rayml.stages.data.rule import RowRule, row_rule
from rayml.stages.data.unpacking import Unpacked, refuse_claim

CSV_BYTES = 1 << 20
"""How much of a CSV file its columns' types are inferred from, and how much is parsed at a time."""

UNREADABLE = (pa.ArrowInvalid, UnicodeDecodeError, OSError)
"""What pyarrow raises for the bytes of a file."""
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"


@dataclass(frozen=True)
class TableFile:
    """A file, or some row groups of one."""

    place: str
    origin: Origin
    bytes: int
    packed: int
    """Bytes of the whole file."""
    row_groups: tuple[int, ...] | None = None
    """None for the whole file."""
    first_row: int = 0
    """Number of the first row of the first row group."""


def read_csv_source(listing: Listing, config: DataConfig) -> Reading:
    """CSV files: one task per group of small files or per large one, which cannot be cut without reading it."""
    files = _table_files(listing)
    shown = files[0].origin.shown
    if config.task == "image_classification":
        raise StageError("a CSV file holds no images; the task image_classification needs them", where=shown)
    columns = _csv_columns(files[0], numbers=True)
    if all(pa.types.is_null(kind) for kind in columns.values()):
        raise StageError("the file has no rows", where=shown)
    rule = row_rule(columns, config, shown, lambda name: pa.chunked_array([], columns[name]))
    # Labels are text in every file, so that a file that happens to hold numbers only agrees with the others.
    types = {name: columns[name] if pa.types.is_boolean(columns[name]) else pa.float64() for name in rule.columns}
    types[config.label] = pa.string()
    tasks = tuple(partial(_read_csv_files, group, rule, types) for group in grouped(files, BLOCK_BYTES))
    origins = tuple(file.origin for file in files)
    names = tuple(file.name for file in listing.files)
    return Reading(rule.feature, names, origins, tasks, text_labels=True, ignored=rule.ignored + listing.ignored)


def read_parquet_source(listing: Listing, config: DataConfig) -> Reading:
    """Parquet files: one task per group of small files or of row groups, about BLOCK_BYTES each."""
    files = _table_files(listing)
    shown = files[0].origin.shown
    with _open_parquet(files[0]) as opened:
        columns = column_types(opened.schema_arrow, shown)
        rule = row_rule(columns, config, shown, partial(_first_row, opened, files[0]))
    pieces = [piece for file in files for piece in _row_group_pieces(file, rule)]
    tasks = tuple(partial(_read_parquet_files, group, rule) for group in grouped(pieces, BLOCK_BYTES))
    origins = tuple(file.origin for file in files)
    names = tuple(file.name for file in listing.files)
    return Reading(rule.feature, names, origins, tasks, ignored=rule.ignored + listing.ignored)


def _table_files(listing: Listing) -> list[TableFile]:
    return [
        TableFile(listing.locate(file.name), Origin(number, listing.show(file.name)), file.bytes, file.bytes)
        for number, file in enumerate(listing.files)
    ]


def _csv_columns(file: TableFile, *, numbers: bool = False) -> dict[str, pa.DataType]:
    """Names and types of a file's columns, from its first CSV_BYTES.

    With `numbers`, a column that is text only because of some values counts as numbers. Reading it then names the
    first of those values; a column that one typing error turned into text would be left out without a word.
    """
    try:
        with _open_csv(file.place) as reader:
            types = column_types(reader.schema, file.origin.shown)
            texts = [name for name, kind in types.items() if numbers and pa.types.is_string(kind)]
            if not texts:
                return types
            batch = reader.read_next_batch()
            for name in texts:
                share = pc.mean(pc.match_substring_regex(batch.column(name), _NUMBER)).as_py()
                types[name] = pa.float64() if share > 0.5 else types[name]
            return types
    except UNREADABLE as error:
        raise _unreadable(error, file) from None


def _open_csv(place: str, convert: pcsv.ConvertOptions | None = None) -> pcsv.CSVStreamingReader:
    # A task has one CPU, and only the reader without threads says in which row an error is.
    return pcsv.open_csv(
        open_rows(place),
        read_options=pcsv.ReadOptions(block_size=CSV_BYTES, use_threads=False),
        parse_options=pcsv.ParseOptions(newlines_in_values=True),
        convert_options=convert,
    )


def _read_csv_files(files: list[TableFile], rule: RowRule, types: dict[str, pa.DataType]) -> Iterator[pa.Table]:
    options = pcsv.ConvertOptions(column_types=types, include_columns=list(types))
    for file in files:
        rule.require(_csv_columns(file), file.origin.shown)
        start, unpacked = 0, Unpacked(file.packed, file.origin.shown)
        try:
            with _open_csv(file.place, options) as reader:
                for batch in reader:
                    unpacked.add(batch.nbytes)
                    if len(batch):
                        yield rule.block(pa.Table.from_batches([batch]), file.origin, start)
                    start += len(batch)
        except UNREADABLE as error:
            raise _unreadable(error, file) from None


def _open_parquet(file: TableFile) -> pq.ParquetFile:
    refuse_unsafe_switches()  # of this node, which a driver elsewhere does not see
    try:
        opened = pq.ParquetFile(open_anywhere(file.place))
        if not opened.schema_arrow.names:  # which makes the types of the columns
            raise StageError("the file has no columns", where=file.origin.shown)
        return opened
    except UNREADABLE as error:
        raise _unreadable(error, file) from None
    except ValueError:  # of a type of Ray Data, whose own advice is to let the file run code
        raise StageError(
            "a column holds tensors of Ray Data whose description is a pickle, and pickles can run code",
            where=file.origin.shown,
            hint="write the file again with Ray 2.55 or newer, where you trust it",
        ) from None


def _first_row(opened: pq.ParquetFile, file: TableFile, name: str) -> pa.ChunkedArray:
    refuse_claim(opened.metadata, 0, file.packed, file.origin.shown)
    for batch in opened.iter_batches(batch_size=1, columns=[name]):
        return pa.Table.from_batches([batch]).column(name)
    raise StageError("the file has no rows", where=file.origin.shown)


def _row_group_pieces(file: TableFile, rule: RowRule) -> Iterator[TableFile]:
    """A small file whole, a large one by row groups."""
    if file.bytes <= BLOCK_BYTES:
        yield file
        return
    with _open_parquet(file) as opened:
        metadata = opened.metadata
    refuse_claim(metadata, rule.row_bytes, file.packed, file.origin.shown)
    first_row = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        yield replace(file, row_groups=(number,), first_row=first_row, bytes=group.total_byte_size)
        first_row += group.num_rows


def _read_parquet_files(files: list[TableFile], rule: RowRule) -> Iterator[pa.Table]:
    for file in files:
        with _open_parquet(file) as opened:
            rule.require(column_types(opened.schema_arrow, file.origin.shown), file.origin.shown)
            if file.row_groups is None:
                refuse_claim(opened.metadata, rule.row_bytes, file.packed, file.origin.shown)
            start, unpacked = file.first_row, Unpacked(file.packed, file.origin.shown)
            try:
                for batch in opened.iter_batches(
                    batch_size=max(1, BLOCK_BYTES // rule.row_bytes),
                    row_groups=file.row_groups,
                    columns=[*rule.columns, rule.label],
                ):
                    unpacked.add(batch.nbytes)
                    if len(batch):
                        yield rule.block(pa.Table.from_batches([batch]), file.origin, start)
                    start += len(batch)
            except UNREADABLE as error:
                raise _unreadable(error, file) from None


def _unreadable(error: Exception, file: TableFile) -> RaymlError:
    """What pyarrow could not read, as a person would put it: rows from 0 and after the header."""
    shown = file.origin.shown
    failure = bucket_failure(error, file.place, shown)
    if failure is not None:
        return failure
    if isinstance(error, OSError) and error.strerror:
        return StageError(f"cannot be read: {error.strerror}", where=shown)
    row = re.search(r"Row #(\d+): (.*)", str(error), re.DOTALL)
    if row is None:
        encoding = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
        hint = "save the file as UTF-8" if encoding else "the file is damaged or not of this kind"
        return StageError(f"cannot be read: {error}", where=shown, hint=hint)
    column = re.search(r"In CSV column #(\d+)", str(error))
    name = f" column `{_csv_header(file.place)[int(column[1])]}`" if column else ""
    # pyarrow counts lines from 1, and the header is one of them.
    return StageError(row[2].rstrip(), where=f"{shown} row {int(row[1]) - 2}{name}")


def _csv_header(place: str) -> list[str]:
    with pa.input_stream(open_rows(place)) as stream:
        first = stream.read(CSV_BYTES).decode("utf-8-sig", "replace")
    return next(csv.reader(io.StringIO(first)))
