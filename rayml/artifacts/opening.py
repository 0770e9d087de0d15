"""A store by its address: a folder, or `s3://bucket/prefix`."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rayml.artifacts.bucket import Bucket
from rayml.artifacts.bucket_hosts import make_private
from rayml.artifacts.manifest import digest
from rayml.artifacts.s3 import S3Store
from rayml.artifacts.store import LocalStore, Store
from rayml.errors import PlanError
from rayml.spec.base import BUCKET

SHARED_BY_A_USER = "rayml-{}"
"""Folder for what this user's processes bring to this host, by the user's number."""
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
FITS = "write a folder (/data/rayml), file:///data/rayml or s3://BUCKET/PREFIX"


def open_store(uri: str, cache: Path) -> Store:
    """The store at an address. Nothing is read or written yet.

    Args:
        uri: a folder, `file:///folder` or `s3://bucket[/prefix]`.
        cache: local folder for the files of a store that is elsewhere.

    Raises:
        PlanError: no store has such an address. A secret in it is not repeated.
    """
    scheme = SCHEME.match(uri)
    if scheme is None:
        return LocalStore(_folder(uri))
    name = scheme[1].lower()
    if name not in ("file", "s3"):
        raise PlanError(f"no store is opened by {name}://", where="store", hint=FITS)
    _refuse_secrets(uri, name)
    parts = urlsplit(uri)
    if name == "file":
        if parts.netloc not in ("", "localhost"):
            raise PlanError("a file:// address has three slashes and no host", where="store", hint=FITS)
        return LocalStore(_folder(unquote(parts.path)))
    return S3Store(_bucket(parts.netloc), _prefix(unquote(parts.path)), cache)


def open_artifacts(storage: str, use: str) -> Store:
    """The artifacts of a storage of runs. What is elsewhere is brought to a folder of this host that is the user's own.

    Args:
        storage: a folder or `s3://bucket/prefix`.
        use: names that folder. A reader brings files over what it has, and a driver writes them, so each has its own.

    Raises:
        PlanError: no storage has such an address.
        BackendError: somebody else can write to the folder.
    """
    mine = Path(tempfile.gettempdir()) / SHARED_BY_A_USER.format(os.getuid())
    folder = mine / f"{digest({'storage': storage})[:16]}-{use}"
    store = open_store(f"{storage.rstrip('/')}/artifacts", folder / "artifacts")
    if isinstance(store, S3Store):
        make_private(folder)
    return store


def runs_beside(store: Store) -> Bucket | Path:
    """Where a storage keeps its runs: beside its artifacts."""
    if isinstance(store, S3Store):
        return store.bucket.beside("runs")
    assert isinstance(store, LocalStore), "open_store opens these two"
    return store.root.parent.absolute() / "runs"


def _folder(path: str) -> Path:
    if not path or "\0" in path:
        raise PlanError("the address of the store names no folder", where="store", hint=FITS)
    return Path(path).expanduser()


def _refuse_secrets(uri: str, scheme: str) -> None:
    """An address is written to job files, records and logs: it must hold nothing to log in with."""
    if "@" in uri or "?" in uri or "#" in uri:
        raise PlanError(
            f"this {scheme}:// address holds one of @ ? #, as credentials and settings do; they have no place in it",
            where="store",
            hint="give boto3 its settings by AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE and "
            "AWS_ENDPOINT_URL, and write s3://BUCKET/PREFIX",
        )


def _bucket(name: str) -> str:
    if not BUCKET.fullmatch(name):
        raise PlanError(
            f"{name!r} is no name of a bucket: 3 to 63 small letters, digits, dots and hyphens",
            where="store",
            hint=FITS,
        )
    return name


def _prefix(path: str) -> str:
    prefix = path.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise PlanError(f"the prefix {prefix!r} has an empty part, . or .. in it", where="store", hint=FITS)
    return prefix
