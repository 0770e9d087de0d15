"""Which files a data source is, and a digest that changes when they do. Never reads their contents."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rayml.artifacts.bucket import in_bucket
from rayml.errors import PlanError
from rayml.plan.bucket_files import list_sent, list_there
from rayml.plan.folder_files import list_here
from rayml.plan.listing import FileSource, Listing
from rayml.spec.data import CallableSource, ImageFolderSource, SklearnSource, Source


def fingerprint(source: Source, base: Path, sent: str | None = None) -> str:
    """Hex digest of what a source holds, without reading it.

    Files count by name, size and time of change, objects of a bucket by name, size and ETag; scikit-learn's sets by
    name and version; a function by its name and arguments (its code is part of the step's code).

    Args:
        source: of the job file.
        base: folder that relative paths start at.
        sent: where its files were sent, see `list_files`.

    Raises:
        PlanError: nothing is there, or it cannot be read.
        BackendError: the bucket cannot be reached.
    """
    document: dict[str, Any] = {"kind": source.kind}
    if isinstance(source, SklearnSource):
        document |= {"name": source.name, "version": _sklearn_version()}
    elif isinstance(source, CallableSource):
        document |= {"function": source.function, "args": source.args}
    else:
        return fingerprint_of(source, list_files(source, base, sent))
    return _digest(document)


def fingerprint_of(source: FileSource, listing: Listing) -> str:
    """The fingerprint of a source whose files are known."""
    files = [[file.name, file.bytes, file.version] for file in listing.files]
    return _digest({"kind": source.kind, "files": files})


def list_files(source: FileSource, base: Path, sent: str | None = None) -> Listing:
    """The files of a source, sorted by name.

    A folder is searched to any depth; names that start with a dot or an underscore are passed over.

    Args:
        sent: `s3://bucket/prefix` that holds the files of a source of another machine; None where they are looked for
            at the source's own path.

    Raises:
        PlanError: the path does not exist, cannot be read, or holds no file of the source's kind.
        BackendError: the bucket cannot be reached.
    """
    where = f"data.source.path {source.path}"
    if sent is not None:
        listing = list_sent(sent, source)
    else:
        listing = list_there(source, where) if is_in_bucket(source) else list_here(source, base, where)
    if isinstance(source, ImageFolderSource):
        _refuse_images_without_class(listing, where)
    return listing


def is_in_bucket(source: FileSource) -> bool:
    """Whether the job file itself names a bucket, which every machine can read."""
    return in_bucket(source.path)


def _digest(document: dict[str, Any]) -> str:
    # File names may hold bytes that are not UTF-8; ASCII escapes keep them apart.
    text = json.dumps(document, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()


def _sklearn_version() -> str:
    try:
        return version("scikit-learn")
    except PackageNotFoundError:
        raise PlanError("scikit-learn is not installed", where="data.source", hint="pip install scikit-learn") from None


def _refuse_images_without_class(listing: Listing, where: str) -> None:
    loose = [file.name for file in listing.files if "/" not in file.name]
    if loose:
        raise PlanError(
            f"{listing.show(loose[0])} lies beside the class folders; the folder of an image is its class",
            where=where,
            hint=f"move it and {len(loose) - 1} others to a folder `{listing.shown}/CLASS/`",
        )
