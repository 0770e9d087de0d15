"""The files of a source in a bucket, as a folder of this machine with the same names would list them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from rayml.artifacts.bucket import Entry, bucket_at
from rayml.errors import BackendError, PlanError
from rayml.plan.listing import (
    HIDDEN,
    SUFFIXES,
    WILD,
    FileSource,
    Listing,
    SourceFile,
    is_glob,
    sorted_files,
    split_glob,
    summary,
)
from rayml.spec.data import ImageFolderSource

NEAR = 8
"""How many names a hint shows."""


def list_there(source: FileSource, where: str) -> Listing:
    """What is below `s3://bucket/prefix`, the objects that match a glob, or one object.

    Raises:
        PlanError: nothing of the source's kind is there.
        BackendError: the server cannot be reached or refuses.
    """
    uri = source.path.rstrip("/")
    if is_glob(uri) and not isinstance(source, ImageFolderSource):
        return _list_glob(uri, where)
    found = objects_below(uri)
    if found or isinstance(source, ImageFolderSource):
        return _of_folder(uri, found, source, where)
    parent, _, name = uri.rpartition("/")
    exact = bucket_at(parent).find(name)
    if exact is None:
        raise PlanError(f"{uri} does not exist", where=where, hint=_what_is_near(parent))
    return Listing(parent, parent, (_describe(exact),))


def list_sent(place: str, source: FileSource) -> Listing:
    """What was sent of a source of another machine, under the names that it had there.

    Raises:
        PlanError: nothing is there any more, or not all.
        BackendError: the server cannot be reached or refuses.
    """
    found = [_describe(entry) for entry in bucket_at(place).entries("")]
    if not found:
        raise PlanError(
            f"{place}, where rayml submit had sent the files, is empty",
            where=f"data.source.path {source.path}",
            hint="submit the job again from the machine that has them",
        )
    above, _, name = place.rpartition("/")
    marker = bucket_at(above).read(f"{name}.json")
    if marker is None or marker[0] != summary(found):
        raise PlanError(
            f"{place}, where rayml submit had sent the files, does not hold all of them",
            where=f"data.source.path {source.path}",
            hint="submit the job again from the machine that has them",
        )
    return Listing(place, _shown(source, [file.name for file in found]), sorted_files(found))


def objects_below(uri: str) -> list[Entry]:
    """Every object below a prefix that is not hidden; what stands for an empty folder is left out."""
    return [
        entry
        for entry in bucket_at(uri).entries("")
        if not entry.path.endswith("/") and not any(part.startswith(HIDDEN) for part in entry.path.split("/"))
    ]


def matches(name: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path match those of a glob, where `**` stands for any number of parts."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return matches(name, pattern[1:]) or (bool(name) and matches(name[1:], pattern))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and matches(name[1:], pattern[1:])


def _list_glob(uri: str, where: str) -> Listing:
    root, pattern = split_glob(uri, where)
    parts, literal = tuple(pattern.split("/")), re.split(f"[{re.escape(WILD)}]", pattern)[0]
    entries = [entry for entry in bucket_at(root).entries(literal) if not entry.path.endswith("/")]
    found = [_describe(entry) for entry in entries if matches(tuple(entry.path.split("/")), parts)]
    if not found:
        raise PlanError(f"no object matches {uri}", where=where, hint=_what_is_near(root))
    return Listing(root, root, sorted_files(found))


def _of_folder(uri: str, found: list[Entry], source: FileSource, where: str) -> Listing:
    suffixes = SUFFIXES[source.kind]
    files, ignored = [], []
    for entry in found:
        if entry.path.lower().endswith(suffixes):
            files.append(_describe(entry))
        else:
            ignored.append(entry.path)
    if not files:
        raise PlanError(
            f"{uri} holds no object that ends in {' or '.join(suffixes)}; {len(ignored)} others are there",
            where=where,
            hint=f"the first of them is {min(ignored)}" if ignored else _what_is_near(uri.rpartition("/")[0]),
        )
    return Listing(uri, uri, sorted_files(files), tuple(sorted(ignored)))


def _describe(entry: Entry) -> SourceFile:
    return SourceFile(entry.path, entry.bytes, entry.etag)


def _shown(source: FileSource, names: list[str]) -> str:
    """The folder of a path of a job file that these names start at: itself, or what stands before a glob or a file."""
    if is_glob(source.path) and not isinstance(source, ImageFolderSource):
        return split_glob(source.path, "")[0]
    path = PurePosixPath(source.path)
    return str(path.parent) if names == [path.name] else source.path


def _what_is_near(uri: str) -> str:
    """What lies in a folder of the bucket, for the hint of an error. Not everybody may list it."""
    try:
        names = [name for name in bucket_at(uri).names(NEAR) if name]
    except BackendError:
        return f"{uri} cannot be listed with these credentials"
    return f"{uri} holds {', '.join(names)}" if names else f"{uri} is empty"
