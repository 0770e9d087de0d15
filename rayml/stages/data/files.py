"""Opening the files of a source, on this machine or in a bucket, wherever a reading task runs."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import pyarrow as pa

from rayml.artifacts.bucket import Bucket, bucket_at, each, in_bucket
from rayml.errors import BackendError, RaymlError, StageError

CSV_BUFFER = 4 * 2**20
"""Bytes of an object that one request brings; they are read one after the other."""
_OF_SERVER = re.compile(r"AWS Error (\w+)")
"""In what Arrow raises where a server cannot be reached or refuses."""
GONE = "there is no such object any more"
_GONE_CODES = ("NO_SUCH_KEY", "RESOURCE_NOT_FOUND")
_OPEN: dict[str, pa.fs.FileSystem] = {}


class Sized(Protocol):
    """A file, or a part of one."""

    @property
    def bytes(self) -> int:
        """To be read."""


SomeFile = TypeVar("SomeFile", bound=Sized)


def grouped(files: Iterable[SomeFile], most_bytes: int, most_files: float = float("inf")) -> Iterator[list[SomeFile]]:
    """Neighbours together, as long as they are not more and not larger; a larger one stands alone."""
    group: list[SomeFile] = []
    total = 0
    for file in files:
        if group and (total + file.bytes > most_bytes or len(group) >= most_files):
            yield group
            group, total = [], 0
        group.append(file)
        total += file.bytes
    if group:
        yield group


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


def bucket_failure(error: Exception, place: str, shown: str) -> RaymlError | None:
    """What an error of pyarrow says of a bucket or its server; None where it is about the bytes of a file."""
    if not in_bucket(place) or not isinstance(error, OSError):
        return None
    code = _OF_SERVER.search(str(error))
    if isinstance(error, FileNotFoundError) or (code is not None and code[1] in _GONE_CODES):
        return StageError(GONE, where=shown)
    if code is None:
        return None
    return BackendError(
        f"the object cannot be read: {code[1].lower().replace('_', ' ')}",
        where=shown,
        hint="check network, AWS_ENDPOINT_URL and credentials of the nodes, then run the same command again",
    )


def _read_file(place: str, shown: str) -> bytes:
    try:
        return Path(place).read_bytes()
    except OSError as error:
        raise StageError(f"cannot be read: {error.strerror}", where=shown) from None


def _read_object(place: str, shown: str) -> bytes:
    name, _, key = _key(place).partition("/")
    found = _bucket(name).read(key)
    if found is None:
        raise StageError(GONE, where=shown)
    return found[0]


@functools.cache
def _bucket(name: str) -> Bucket:
    """One for each bucket and process: opening many small files costs no new connections, and no new log-in."""
    return Bucket(name)


def _filesystem(place: str) -> pa.fs.FileSystem:
    name = bucket_at(place).name
    if name not in _OPEN:
        from rayml.artifacts.bucket_filesystem import filesystem

        _OPEN[name] = filesystem(bucket_at(place))
    return _OPEN[name]


def _key(place: str) -> str:
    return place.removeprefix("s3://")
