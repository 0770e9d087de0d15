"""Opening the files of a source, on this machine or in a bucket, wherever a reading task runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from rayml.artifacts.bucket import bucket_at, each
from rayml.errors import StageError

CSV_BUFFER = 4 * 2**20
"""Bytes of an object that one request brings; they are read one after the other."""
_OPEN: dict[str, pa.fs.FileSystem] = {}


def open_rows(place: str) -> str | pa.NativeFile:
    """What pyarrow's CSV reader takes: a path of this machine, or a stream of an object."""
    if not in_bucket(place):
        return place
    return _filesystem(place).open_input_stream(_key(place), buffer_size=CSV_BUFFER)


def open_anywhere(place: str) -> str | pa.NativeFile:
    """What pyarrow's Parquet reader takes, which reads parts of a file: a path of this machine, or an object."""
    return place if not in_bucket(place) else _filesystem(place).open_input_file(_key(place))


def read_files(places: Sequence[str], shown: Sequence[str]) -> list[bytes]:
    """Whole files, in the order of their places; those of a bucket several at a time.

    Args:
        shown: how a message names each.

    Raises:
        StageError: one cannot be read, or is not there any more.
        BackendError: the bucket cannot be reached.
    """
    pairs = list(zip(places, shown, strict=True))
    if pairs and in_bucket(places[0]):
        return each(pairs, lambda pair: _read_object(*pair))
    return [_read_file(place, name) for place, name in pairs]


def in_bucket(place: str) -> bool:
    return place.startswith("s3://")


def _read_file(place: str, shown: str) -> bytes:
    try:
        return Path(place).read_bytes()
    except OSError as error:
        raise StageError(f"cannot be read: {error.strerror}", where=shown) from None


def _read_object(place: str, shown: str) -> bytes:
    folder, _, name = place.rpartition("/")
    found = bucket_at(folder).read(name)
    if found is None:
        raise StageError("there is no such object any more", where=shown)
    return found[0]


def _filesystem(place: str) -> pa.fs.FileSystem:
    """One for each bucket and process: opening many small files costs no new connections."""
    bucket = bucket_at(place)
    if bucket.name not in _OPEN:
        from rayml.artifacts.bucket_filesystem import filesystem

        _OPEN[bucket.name] = filesystem(bucket)
    return _OPEN[bucket.name]


def _key(place: str) -> str:
    return place.removeprefix("s3://")
