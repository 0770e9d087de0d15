"""A work folder that travels through a bucket, so that a step goes on from its checkpoints on another machine.

A small file beside the folder says what this machine last pushed or pulled: the size and time of the local file, and
the ETag of the object. So a file that was changed here is uploaded, and one that was changed there is downloaded. What
is absent here is never taken for removed, since others clean temporary folders too: `remove` says it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from rayml.artifacts.bucket import Bucket, Entry, each
from rayml.artifacts.durable import write_atomic

MARKER = "manifest.json"
"""The file that is written last in a checkpoint's folder, and travels last."""


class Synced(BaseModel):
    """A file when it was last the same here and in the bucket."""

    bytes: int
    mtime_ns: int
    etag: str


_INDEX = TypeAdapter(dict[str, Synced])


def every(name: str) -> bool:
    """Wants all files."""
    return True


def push(
    folder: Path,
    bucket: Bucket,
    remote: str,
    index_file: Path,
    wants: Callable[[str], bool] = every,
    again: bool = False,
) -> None:
    """Upload what is new or was changed here, markers last.

    A checkpoint may be written or pruned meanwhile: it travels whole, or at the next push. What another machine changed
    or removed stays so, unless it was changed here since.

    Args:
        remote: the path in the bucket, with a slash at its end.
        wants: whether a file is of interest, by its path below `folder`.
        again: whether what is no longer in the bucket is sent once more.
    """
    index = _load(index_file)
    markers, others = _files(folder, wants)
    if again:
        there = {entry.path for entry in bucket.entries(remote)}
        index = {name: known for name, known in index.items() if remote + name in there}
    sent: dict[str, os.stat_result] = {}
    for batch in (others, markers):
        changed = [name for name in batch if not _is_unchanged(folder / name, index.get(name))]
        stats = each(changed, partial(_upload, folder, bucket, remote))
        sent.update({name: stat for name, stat in zip(changed, stats, strict=True) if stat is not None})
    if sent:
        etags = {entry.path: entry.etag for entry in bucket.entries(remote)}
        index.update({name: _synced(stat, etags.get(remote + name, "")) for name, stat in sent.items()})
        _save(index_file, index)


def remove(folder: Path, bucket: Bucket, remote: str, index_file: Path, wants: Callable[[str], bool]) -> None:
    """Delete files in the bucket and here, markers first, so that nothing is found that is no longer whole."""
    paths = [entry.path for entry in bucket.entries(remote) if wants(entry.path.removeprefix(remote))]
    for batch in ([path for path in paths if _is_marker(path)], [path for path in paths if not _is_marker(path)]):
        each(batch, bucket.delete)
    for name in _names(folder):
        if wants(name):
            (folder / name).unlink(missing_ok=True)
    _save(index_file, {name: known for name, known in _load(index_file).items() if not wants(name)})


def pull(
    folder: Path,
    bucket: Bucket,
    remote: str,
    index_file: Path,
    wants: Callable[[str], bool] = every,
    exact: bool = False,
) -> None:
    """Download what is new or was changed in the bucket, markers last. What was only changed here stays.

    What is removed there meanwhile is passed over.

    Args:
        wants: whether a file is of interest, by its path below `remote`.
        exact: whether a file that was the same here and there, and is no longer there, is removed here too.
    """
    index = _load(index_file)
    entries, wanted = bucket.entries(remote), []
    if exact:
        there = {entry.path.removeprefix(remote) for entry in entries}
        _drop(folder, index, {name for name in index if wants(name)} - there)
    for entry in entries:
        name = entry.path.removeprefix(remote)
        known = index.get(name)
        same = known is not None and known.etag == entry.etag
        if is_inside(name) and wants(name) and not (same and (folder / name).exists()):
            wanted.append(entry)
    markers = [entry for entry in wanted if _is_marker(entry.path)]
    for batch in ([entry for entry in wanted if not _is_marker(entry.path)], markers):
        stats = each(batch, partial(_download, folder, bucket, remote))
        for entry, stat in zip(batch, stats, strict=True):
            if stat is not None:
                index[entry.path.removeprefix(remote)] = _synced(stat, entry.etag)
    _save(index_file, index)


def is_inside(name: str) -> bool:
    """Whether a relative name stays below the folder that it is put into."""
    return bool(name) and "\\" not in name and not any(part in ("", ".", "..") for part in name.split("/"))


def _drop(folder: Path, index: dict[str, Synced], names: set[str]) -> None:
    """Remove files here, and what is known of them."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
        del index[name]


def _files(folder: Path, wants: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Names of the markers and of the other files; whatever a marker speaks of is among the others."""
    names = [name for name in _names(folder) if wants(name)]
    return [name for name in names if _is_marker(name)], [name for name in names if not _is_marker(name)]


def _names(folder: Path) -> list[str]:
    """Every file below a folder. Unlike Path.rglob, os.walk bears that a folder is removed meanwhile."""
    found = [Path(root, name) for root, _, names in os.walk(folder) for name in names]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _is_marker(path: str) -> bool:
    return path.rpartition("/")[2] == MARKER


def _is_unchanged(path: Path, known: Synced | None) -> bool:
    """Whether a local file did not change since it was last the same in the bucket, or is gone."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return True
    return known is not None and known == _synced(stat, known.etag)


def _upload(folder: Path, bucket: Bucket, remote: str, name: str) -> os.stat_result | None:
    """What the file was when its upload began; None where it was removed meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        stat = (folder / name).stat()
        bucket.upload(folder / name, remote + name)
        return stat
    return None


def _download(folder: Path, bucket: Bucket, remote: str, entry: Entry) -> os.stat_result | None:
    """What the file is now; None where it is no longer in the bucket."""
    target = folder / entry.path.removeprefix(remote)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        if not bucket.download(entry, temporary):
            return None
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target.stat()


def _synced(stat: os.stat_result, etag: str) -> Synced:
    return Synced(bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, etag=etag)


def _load(path: Path) -> dict[str, Synced]:
    try:
        return _INDEX.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}


def _save(path: Path, index: dict[str, Synced]) -> None:
    write_atomic(path, _INDEX.dump_json(index))
