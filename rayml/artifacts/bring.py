"""A file or folder of a bucket on this host, for libraries that read paths."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rayml.artifacts.bucket import Entry, bucket_at, each, in_bucket
from rayml.artifacts.manifest import file_sha256
from rayml.artifacts.s3 import recorded_sums
from rayml.artifacts.work import is_inside
from rayml.errors import BackendError

WEIGHTS = (".safetensors", ".json")
"""How files of weights end, and what describes them."""


def bring_weights(place: str, folder: Path, check: Callable[[], None] | None = None) -> Path:
    """Weights on this host: the path itself, or a copy of `s3://bucket/path` in `folder`.

    Of a folder, what lies right in it and ends in one of WEIGHTS is brought. A copy appears whole or not at all. Files
    of an artifact of a store are held against its manifest.

    Args:
        check: called once the files are here, before they appear; what it raises keeps them from appearing.

    Raises:
        BackendError: nothing is there, or other bytes than were written, or the bucket cannot be reached.
    """
    if not in_bucket(place):
        return Path(place)
    parent, _, name = place.rstrip("/").rpartition("/")
    target = folder / name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    copy = target.with_name(f".{name}.{secrets.token_hex(4)}")
    try:
        _download(place, parent, copy)
        _refuse_other_bytes(place, copy)
        if check is not None:
            check()
        try:
            copy.rename(target)
        except OSError:
            if not target.exists():  # the work of another process of this host
                raise
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        if copy.is_file():
            copy.unlink()
    return target


def _download(place: str, parent: str, copy: Path) -> None:
    bucket = bucket_at(place)
    found = [
        entry for entry in bucket.entries("") if PurePosixPath(entry.path).suffix in WEIGHTS and _is_top(entry.path)
    ]
    if found:
        kept = each(found, lambda entry: bucket.download(entry, copy / entry.path))
    else:
        above, name = bucket_at(parent), PurePosixPath(place).name
        alone = above.find(name)
        kept = [] if alone is None else [above.download(Entry(name, alone.bytes, alone.etag), copy)]
    if not kept or not all(kept):
        raise BackendError(
            "there are no weights",
            where=place,
            hint="train.start names a folder with .safetensors in it, or one such file",
        )


def _refuse_other_bytes(place: str, copy: Path) -> None:
    for name, sha256 in recorded_sums(place).items():
        if (copy / name).is_file() and file_sha256(copy / name) != sha256:
            raise BackendError(
                f"{name} has other bytes than were written (sha256 differs)",
                where=place,
                hint="rayml verify RUN --storage URI says what else is damaged; train that run again",
            )


def _is_top(path: str) -> bool:
    return "/" not in path and is_inside(path)
