"""Which files a data source is, and a digest that changes when they do. Never reads their contents."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rayml.errors import PlanError
from rayml.spec.data import CallableSource, CsvSource, ImageFolderSource, ParquetSource, SklearnSource, Source

FileSource = ParquetSource | CsvSource | ImageFolderSource

SUFFIXES: dict[str, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "csv": (".csv",),
    "image_folder": (".png", ".jpg", ".jpeg", ".bmp", ".webp"),
}
"""What is taken from a folder. A file or glob that is named outright may end otherwise."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    name: str
    """Path relative to the source, with slashes: it does not change when the source moves."""
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """The files of a source, sorted by name."""

    root: Path
    """Absolute folder that the names start at."""
    shown: str
    """The same folder as the job file has it, for messages."""
    files: tuple[SourceFile, ...]
    ignored: tuple[str, ...]
    """Names of files that lie there and are not of the source's kind; hidden ones are not listed."""

    def show(self, name: str) -> str:
        """A file's path as the reader of a message would type it."""
        return str(Path(self.shown, name))


def fingerprint(source: Source, base: Path) -> str:
    """Hex digest of what a source holds, without reading it.

    Files count by name, size and time of change; scikit-learn's sets by name and version; a function by its name and
    arguments (its code is part of the step's code).

    Args:
        source: of the job file.
        base: folder that relative paths start at.

    Raises:
        PlanError: nothing is there, or it cannot be read.
    """
    document: dict[str, Any] = {"kind": source.kind}
    if isinstance(source, SklearnSource):
        document |= {"name": source.name, "version": _sklearn_version()}
    elif isinstance(source, CallableSource):
        document |= {"function": source.function, "args": source.args}
    else:
        files = list_files(source, base).files
        document["files"] = [[file.name, file.bytes, file.mtime_ns] for file in files]
    # File names may hold bytes that are not UTF-8; ASCII escapes keep them apart.
    text = json.dumps(document, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()


def list_files(source: FileSource, base: Path) -> Listing:
    """The files of a source, sorted by name.

    A folder is searched to any depth; names that start with a dot or an underscore are passed over.

    Raises:
        PlanError: the path does not exist, cannot be read, or holds no file of the source's kind.
    """
    path = Path(base, source.path)
    where = f"data.source.path {source.path}"
    if isinstance(source, ImageFolderSource):
        listing = _list_folder(path, source, where)
        _refuse_images_without_class(listing, where)
        return listing
    if path.is_dir():
        return _list_folder(path, source, where)
    if any(character in source.path for character in "*?["):
        return _list_glob(base, source, where)
    return Listing(path.parent, str(Path(source.path).parent), (_describe(path, path.name, where),), ())


def _sklearn_version() -> str:
    try:
        return version("scikit-learn")
    except PackageNotFoundError:
        raise PlanError("scikit-learn is not installed", where="data.source", hint="pip install scikit-learn") from None


def _list_folder(folder: Path, source: FileSource, where: str) -> Listing:
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise PlanError(f"{folder} {found}; a folder is looked for here", where=where, hint=_what_is_near(folder))
    suffixes = SUFFIXES[source.kind]
    files, ignored = [], []
    for name in _walk(folder, where):
        if Path(name).suffix.lower() in suffixes:
            files.append(_describe(folder / name, name, where))
        else:
            ignored.append(name)
    if not files:
        raise PlanError(
            f"{folder} holds no file that ends in {' or '.join(suffixes)}; {len(ignored)} others are there",
            where=where,
            hint=f"the first of them is {ignored[0]}" if ignored else "the folder is empty",
        )
    return Listing(folder, source.path, tuple(sorted(files, key=lambda file: file.name)), tuple(sorted(ignored)))


def _walk(folder: Path, where: str) -> list[str]:
    """Names of every file below a folder that is not hidden, in no order."""

    def refuse(error: OSError) -> None:
        raise PlanError(f"{error.filename} cannot be listed: {error.strerror}", where=where) from None

    names: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        above = Path(parent).parent.resolve()
        if Path(parent).is_symlink() and Path(parent).resolve() in (above, *above.parents):
            folders.clear()  # a link that leads back up
            continue
        inside = Path(parent).relative_to(folder)
        names.extend((inside / name).as_posix() for name in files if not name.startswith((".", "_")))
    return names


def _list_glob(base: Path, source: FileSource, where: str) -> Listing:
    parts = Path(source.path).parts
    fixed = next(number for number, part in enumerate(parts) if any(character in part for character in "*?["))
    shown = Path(*parts[:fixed])
    root = Path(base, shown)
    found = [path for path in root.glob(str(Path(*parts[fixed:]))) if path.is_file()]
    if not found:
        raise PlanError(f"no file matches {source.path} below {base}", where=where, hint=_what_is_near(root / "*"))
    files = [_describe(path, path.relative_to(root).as_posix(), where) for path in found]
    return Listing(root, str(shown), tuple(sorted(files, key=lambda file: file.name)), ())


def _describe(path: Path, name: str, where: str) -> SourceFile:
    try:
        status = path.stat()
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}", where=where, hint=_what_is_near(path)) from None
    return SourceFile(name, status.st_size, status.st_mtime_ns)


def _what_is_near(path: Path) -> str:
    """What lies in the nearest folder that exists, for the hint of an error."""
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    try:
        names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        return f"{parent} cannot be listed: {error.strerror}"
    if not names:
        return f"{parent} is empty"
    return f"{parent} holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"


def _refuse_images_without_class(listing: Listing, where: str) -> None:
    loose = [file.name for file in listing.files if "/" not in file.name]
    if loose:
        raise PlanError(
            f"{listing.show(loose[0])} lies beside the class folders; the folder of an image is its class",
            where=where,
            hint=f"move it and {len(loose) - 1} others to a folder `{listing.shown}/CLASS/`",
        )
