"""The files that a source consists of, wherever they lie."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from rayml.errors import PlanError
from rayml.spec.data import CsvSource, ImageFolderSource, ParquetSource

FileSource = ParquetSource | CsvSource | ImageFolderSource

SUFFIXES: dict[str, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "csv": (".csv",),
    "image_folder": (".png", ".jpg", ".jpeg", ".bmp", ".webp"),
}
"""What is taken from a folder. A file or glob that is named outright may end otherwise."""
HIDDEN = (".", "_")
"""How names begin that are passed over, and folders that are not searched."""
WILD = "*?["
"""What makes a path a glob."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    name: str
    """Path relative to the source, with slashes: it does not change when the source moves."""
    bytes: int
    version: int | str
    """Of its content: when it was changed, in nanoseconds, or the ETag of an object."""


@dataclass(frozen=True)
class Listing:
    """The files of a source, sorted by name."""

    root: str
    """Absolute folder that the names start at, or `s3://bucket/prefix`."""
    shown: str
    """The same folder as the job file has it, for messages."""
    files: tuple[SourceFile, ...]
    ignored: tuple[str, ...] = ()
    """Names of files that lie there and are not of the source's kind; hidden ones are not listed."""

    def locate(self, name: str) -> str:
        """Where a file is: an absolute path, or `s3://bucket/prefix/name`."""
        return f"{self.root.rstrip('/')}/{name}"

    def show(self, name: str) -> str:
        """A file's path as the reader of a message would type it."""
        return name if self.shown in ("", ".") else f"{self.shown.rstrip('/')}/{name}"


def is_glob(path: str) -> bool:
    """Whether a path stands for every file that fits it."""
    return any(character in path for character in WILD)


def split_glob(path: str, where: str) -> tuple[str, str]:
    """The folder before the first part that is wild, and the pattern from there on.

    `**` stands for folders only, as it does in every version of pathlib.

    Raises:
        PlanError: `**` is a part of a name, or stands at the end.
    """
    scheme, mark, rest = path.rpartition("s3://")
    parts = PurePosixPath(rest).parts
    first = next(number for number, part in enumerate(parts) if is_glob(part))
    if parts[-1] == "**" or any("**" in part and part != "**" for part in parts):
        raise PlanError("`**` stands for folders", where=where, hint="write FOLDER/**/*.csv, or FOLDER/*.csv")
    return scheme + mark + str(PurePosixPath(*parts[:first])), "/".join(parts[first:])


def summary(files: Iterable[SourceFile]) -> bytes:
    """What is written beside files that were sent, once all of them are there."""
    sizes = [file.bytes for file in files]
    return json.dumps({"files": len(sizes), "bytes": sum(sizes)}).encode()


def sorted_files(files: list[SourceFile]) -> tuple[SourceFile, ...]:
    """In the order of their names, which is part of what a source is."""
    return tuple(sorted(files, key=lambda file: file.name))
