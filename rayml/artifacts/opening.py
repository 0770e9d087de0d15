"""A store by its address: a folder, or `s3://bucket/prefix`."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rayml.artifacts.s3 import S3Store
from rayml.artifacts.store import LocalStore, Store
from rayml.errors import PlanError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
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
