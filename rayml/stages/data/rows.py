"""The typed row between reading and writing: where it came from, its label as text, its feature as numbers.

A block of rows is a pyarrow Table of four columns: `file` int32 (index into the source's sorted file names), `row`
int64 (from 0, within the file), `label` string, and `feature`, a fixed size list of uint8 or float32 in C order. The
place of a row (file, row) decides its position and its sample id; neither depends on how the reading is cut into tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rayml.errors import StageError
from rayml.ml.schema import ImageFeature, VectorFeature

Feature = ImageFeature | VectorFeature
Integers = NDArray[np.int64]

BLOCK_BYTES = 32 << 20
"""Bytes of features that a reading task hands on at a time: large enough that a block's fixed cost does not count."""
NAMED_ROWS = 5
"""How many wrong rows an error names."""


@dataclass(frozen=True)
class Origin:
    """The file that rows come from, as a person would type its path."""

    file: int
    shown: str
    """`flowers/rose/a.png`; or `wine.csv`, where rows have numbers."""
    counted: bool = True
    """Whether a file holds many rows."""

    def place(self, row: int) -> str:
        """`wine.csv row 17`: rows are counted from 0, after the header."""
        return f"{self.shown} row {row}" if self.counted else self.shown


@dataclass(frozen=True)
class Reading:
    """A source, understood: what its rows are, and the tasks that read them in order."""

    feature: Feature
    names: tuple[str, ...]
    """Names of the files, stable when the data moves; they decide the sample ids."""
    origins: tuple[Origin, ...]
    """One per name."""
    tasks: tuple[Callable[[], Iterable[pa.Table]], ...]
    """Each yields blocks of rows. How a source is cut into tasks never depends on the cluster."""
    text_labels: bool = False
    """Whether the labels are text only because the format has no types (CSV)."""
    ignored: tuple[str, ...] = ()
    """Columns or files that are in the source and not in the rows."""


def make_block(files: int | NDArray[np.int32], rows: Integers, labels: pa.Array, features: NDArray[Any]) -> pa.Table:
    """A block of rows.

    Args:
        files: index of the file that all rows are from, or `[rows] int32`.
        rows: `[rows] int64`, numbers within the file.
        labels: `[rows]` string, none null.
        features: `[rows, *shape]` uint8 or float32.
    """
    width = int(np.prod(features.shape[1:]))
    flat = pa.array(np.ascontiguousarray(features).reshape(-1))
    return pa.table(
        {
            "file": pa.array(np.broadcast_to(np.asarray(files, np.int32), len(rows))),
            "row": pa.array(rows, pa.int64()),
            "label": labels,
            "feature": pa.FixedSizeListArray.from_arrays(flat, width),
        }
    )


def block_features(block: pa.Table, shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """The features of a block, `[rows, *shape]` per chunk, without a copy."""
    for chunk in block.column("feature").chunks:
        yield chunk.flatten().to_numpy(zero_copy_only=True).reshape(len(chunk), *shape)


def label_texts(column: pa.ChunkedArray, name: str, origin: Origin, rows: Integers) -> pa.Array:
    """Labels as text: whole numbers without a point, text as it stands, booleans as true and false.

    Raises:
        StageError: a label is missing, not a whole number, or of a type that names no class. The rows are named.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_floating(kind):
        column = pc.cast(column, pa.float64())
        refuse_rows(pc.fill_null(pc.is_nan(column), True), f"label `{name}` is missing", origin, rows)
        # Beyond 2^53 a float64 no longer tells whole numbers apart; infinity is beyond it too.
        wrong = pc.or_(pc.not_equal(column, pc.floor(column)), pc.greater(pc.abs(column), 2.0**53))
        refuse_rows(wrong, f"label `{name}` is not a whole number", origin, rows)
        column = pc.cast(column, pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or is_text(kind) or pa.types.is_null(kind)):
        raise StageError(
            f"the label column `{name}` holds {kind}; a class is a whole number, text or a boolean", where=origin.shown
        )
    texts = pc.cast(column, pa.string())
    empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)
    refuse_rows(empty, f"label `{name}` is missing", origin, rows)
    return texts


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def refuse_rows(wrong: pa.Array, what: str, origin: Origin, rows: Integers) -> None:
    """Raise a StageError that names the rows where `wrong` is true; nothing where none is."""
    places = np.flatnonzero(wrong.to_numpy(zero_copy_only=False))
    if len(places):
        raise StageError(f"{what} in {len(places)} of {len(rows)} rows read", where=name_rows(origin, rows[places]))


def name_rows(origin: Origin, rows: Sequence[int] | Integers) -> str:
    """`wine.csv row 3, 17, 18, ...`."""
    numbers = [str(int(row)) for row in rows[:NAMED_ROWS]] + (["..."] if len(rows) > NAMED_ROWS else [])
    return f"{origin.shown} row {', '.join(numbers)}" if origin.counted else origin.shown


def sample_ids(names: Sequence[str], file: NDArray[np.int32], row: Integers) -> Integers:
    """The stable id of each row, `[rows] int64`.

    It is a function of the file's name and the row's number alone, so that another file changes no id. Rows of one file
    never share an id, because splitmix64 is a bijection; of two files, with a chance of 2^-64 for each pair of rows.

    Args:
        names: the files' names.
        file: `[rows] int32`, index of each row's file.
        row: `[rows] int64`, number within the file.
    """
    starts = [hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names]
    base = np.array([int.from_bytes(start, "little") for start in starts], dtype=np.uint64)
    return splitmix64(base[file] + row.astype(np.uint64)).view(np.int64)


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
