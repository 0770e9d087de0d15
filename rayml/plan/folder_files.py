"""The files of a source on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from rayml.errors import PlanError
from rayml.plan.listing import (
    HIDDEN,
    SUFFIXES,
    FileSource,
    Listing,
    SourceFile,
    is_glob,
    sorted_files,
    split_glob,
)
from rayml.spec.data import ImageFolderSource


def list_here(source: FileSource, base: Path, where: str) -> Listing:
    """A folder to any depth, the files that match a glob, or one file.

    Raises:
        PlanError: the path does not exist, cannot be read, or holds no file of the source's kind.
    """
    path = Path(base, source.path)
    try:
        is_folder = isinstance(source, ImageFolderSource) or path.is_dir()
    except OSError as error:  # of a name that is too long
        raise PlanError(f"{path} cannot be read: {error.strerror}", where=where) from None
    if is_folder:
        return _list_folder(path, source, where)
    if is_glob(source.path):
        return _list_glob(base, source, where)
    return Listing(str(path.parent), str(Path(source.path).parent), (_describe(path, path.name, where),))


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
    return Listing(str(folder), source.path, sorted_files(files), tuple(sorted(ignored)))


def _walk(folder: Path, where: str) -> list[str]:
    """Names of every file below a folder that is not hidden, in no order."""

    def refuse(error: OSError) -> None:
        raise PlanError(f"{error.filename} cannot be listed: {error.strerror}", where=where) from None

    names: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(HIDDEN)]
        if _leads_back(Path(parent)):
            folders.clear()
            continue
        inside = Path(parent).relative_to(folder)
        names.extend((inside / name).as_posix() for name in files if not name.startswith(HIDDEN))
    return names


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in, or that a link above it has led through."""
    if not folder.is_symlink():
        return False
    above = [parent.resolve() for parent in folder.parents]
    return any(folder.resolve() in (each, *each.parents) for each in above)


def _list_glob(base: Path, source: FileSource, where: str) -> Listing:
    shown, pattern = split_glob(source.path, where)
    root = Path(base, shown)
    found = [path for path in root.glob(pattern) if path.is_file()]
    if not found:
        raise PlanError(f"no file matches {source.path} below {base}", where=where, hint=_what_is_near(root / "*"))
    files = [_describe(path, path.relative_to(root).as_posix(), where) for path in found]
    return Listing(str(root), shown, sorted_files(files))


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
