"""Canonical shards: Arrow IPC files in a fixed row order, written once by the data stage and memory-mapped by readers.

`train-00000.arrow`, `train-00001.arrow`, ... each hold one record batch of three columns: `sample_id` int64, `feature`
(the canonical extension type arrow.fixed_shape_tensor, https://arrow.apache.org/docs/format/CanonicalExtensions.html)
and `label` int64, an index into the schema's classes. Nothing is compressed, so that a mapped file is an array.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from rayml.artifacts.switches import refuse_unsafe_switches
from rayml.errors import StageError
from rayml.ml.schema import SCHEMA_FILE, Schema

Integers = NDArray[np.int64]

ROW_BYTES = 4096
"""From here on copying a row costs more than a turn of Python's loop (0.4 us), and numpy's scatter would copy it twice:
555,000 instead of 400,000 rows of 12 KB a second over 8 shards."""


def shard_name(split: str, number: int) -> str:
    """File name of a split's shard. Names sort in the order of rows."""
    assert 0 <= number < 100_000, f"shard {number} of {split} has no place in the order of names"
    return f"{split}-{number:05d}.arrow"


def write_shard(path: Path, ids: Integers, features: NDArray[Any], labels: Integers) -> None:
    """Write one shard; equal arguments give equal bytes.

    Args:
        path: the file, replaced where it exists.
        ids: `[rows] int64`.
        features: `[rows, *shape]`, C order.
        labels: `[rows] int64`.
    """
    assert len(ids) == len(features) == len(labels) > 0, f"{path.name} needs equally many ids, features and labels"
    columns = {
        "sample_id": pa.array(ids, pa.int64()),
        "feature": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(features)),
        "label": pa.array(labels, pa.int64()),
    }
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def save_schema(folder: Path, schema: Schema) -> None:
    """Write the schema that `load_schema` reads."""
    (folder / SCHEMA_FILE).write_text(schema.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load_schema(folder: Path) -> Schema:
    """The schema of the shards in a folder.

    Raises:
        StageError: there is none, or it is not one.
    """
    path = folder / SCHEMA_FILE
    try:
        return Schema.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise StageError("no such file; canonical shards have one beside them", where=str(path)) from None
    except ValidationError as error:
        raise StageError(f"not a schema of canonical shards: {error}", where=str(path)) from None


class ShardSet:
    """The rows of one split, memory-mapped, in canonical order."""

    def __init__(self, ids: list[Integers], features: list[NDArray[Any]], labels: list[Integers]) -> None:
        self._features = features
        self._ends = np.cumsum([len(shard) for shard in features])
        self.sample_ids: Integers = ids[0] if len(ids) == 1 else np.concatenate(ids)
        """`[rows] int64`, read-only."""
        self.labels: Integers = labels[0] if len(labels) == 1 else np.concatenate(labels)
        """`[rows] int64`, read-only."""
        self.sample_ids.flags.writeable = False
        self.labels.flags.writeable = False

    @classmethod
    def open(cls, folder: Path, *splits: str) -> ShardSet:
        """Map the shards of a split, or of several one after the other; no feature is read before it is asked for.

        Raises:
            StageError: the folder has no shard of a split, or one that cannot be read.
        """
        refuse_unsafe_switches()
        shards = []
        for split in splits:
            paths = sorted(folder.glob(f"{split}-*.arrow"))
            if not paths:
                raise StageError(f"no shard of the split {split!r}", where=str(folder))
            shards += [_map_shard(path) for path in paths]
        ids, features, labels = (list(column) for column in zip(*shards, strict=True))
        return cls(ids, features, labels)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shards(self) -> list[NDArray[Any]]:
        """Features of each shard, `[rows, *shape]`, read-only views of the mapped files."""
        return self._features

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row's feature."""
        return tuple(self._features[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._features[0].dtype

    def gather(self, indices: Integers, out: NDArray[Any] | None = None) -> tuple[NDArray[Any], Integers]:
        """Copy rows, in the order asked for.

        Args:
            indices: `[n] int64`, each in 0 ... len - 1; repeats are allowed.
            out: `[n, *shape]` of the shards' dtype; written and returned where given.

        Returns:
            Features `[n, *shape]` and labels `[n] int64`, both writable.

        Raises:
            IndexError: an index lies outside of the split.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"row {indices.min()} or {indices.max()} is not one of the {len(self)} rows")
        if out is None:
            out = np.empty((len(indices), *self.shape), self.dtype)
        if len(self._features) == 1:
            # The indices are checked above; mode "raise" would make numpy copy `out` once more.
            np.take(self._features[0], indices, axis=0, out=out, mode="clip")
        else:
            self._gather_across(indices, out)
        return out, np.take(self.labels, indices)

    def rows(self, start: int, stop: int) -> tuple[NDArray[Any], Integers]:
        """Rows start ... stop - 1: features `[n, *shape]` and labels `[n] int64`.

        Both are read-only views where the rows lie in one shard; the features are copied where they do not.
        """
        assert 0 <= start <= stop <= len(self), f"rows {start} to {stop} are not within 0 and {len(self)}"
        shard = min(int(np.searchsorted(self._ends, start, side="right")), len(self._ends) - 1)
        first = int(self._ends[shard]) - len(self._features[shard])
        if stop <= self._ends[shard]:
            return self._features[shard][start - first : stop - first], self.labels[start:stop]
        features, _ = self.gather(np.arange(start, stop, dtype=np.int64))
        return features, self.labels[start:stop]

    def _gather_across(self, indices: Integers, out: NDArray[Any]) -> None:
        shard_of = np.searchsorted(self._ends, indices, side="right")
        within = indices - (self._ends - [len(shard) for shard in self._features])[shard_of]
        if out[:1].nbytes >= ROW_BYTES:
            for place, (shard, row) in enumerate(zip(shard_of.tolist(), within.tolist(), strict=True)):
                out[place] = self._features[shard][row]
            return
        for shard in np.unique(shard_of):
            places = np.flatnonzero(shard_of == shard)
            out[places] = self._features[shard][within[places]]


def _map_shard(path: Path) -> tuple[Integers, NDArray[Any], Integers]:
    try:
        with pa.memory_map(str(path)) as file:
            opened = pa.ipc.open_file(file)
            _check_types(opened.schema)
            batch = opened.get_batch(0)
        return (
            batch.column("sample_id").to_numpy(),
            batch.column("feature").to_numpy_ndarray(),
            batch.column("label").to_numpy(),
        )
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise StageError(
            f"not a canonical shard: {error}", where=str(path), hint="`rayml verify` says which artifacts are damaged"
        ) from None


def _check_types(schema: pa.Schema) -> None:
    """ArrowInvalid where a column is not of its type. A type of another library may run code when it is converted."""
    for name, is_right in (("sample_id", pa.types.is_int64), ("feature", _is_tensor), ("label", pa.types.is_int64)):
        kind = schema.field(name).type
        if not is_right(kind):
            raise pa.ArrowInvalid(f"its column `{name}` holds {kind}")


def _is_tensor(kind: pa.DataType) -> bool:
    if not isinstance(kind, pa.FixedShapeTensorType):
        return False
    return bool(pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type))
