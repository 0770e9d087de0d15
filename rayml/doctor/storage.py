"""Where runs and artifacts are kept: it is written, flushed and read back, and two writers cannot both win a name."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from pathlib import Path

from rayml.artifacts.bucket import Bucket
from rayml.artifacts.durable import create_exclusive, write_atomic
from rayml.artifacts.opening import open_store
from rayml.artifacts.s3 import S3Store
from rayml.artifacts.store import LocalStore
from rayml.doctor import clock
from rayml.doctor.finding import Finding, ok, refused, warning, wrong
from rayml.doctor.machine import size
from rayml.errors import RaymlError, machine_failure

TIMEOUT_S = 5.0
GIB = 2**30
LITTLE, NEXT_TO_NOTHING = 10 * GIB, GIB
CONTENT, OTHER = b"rayml doctor", b"rayml doctor, another writer"


def look(uri: str, cache: Path) -> list[Finding]:
    """A storage by its address; nothing is left in it."""
    try:
        store = open_store(uri, cache)
        if isinstance(store, S3Store):
            return bucket(Bucket(store.bucket.name, store.bucket.prefix, TIMEOUT_S))
    except RaymlError as error:
        return [refused("storage", error)]
    assert isinstance(store, LocalStore), "an address leads to a folder or to a bucket"
    return folder(store.root)


def bucket(found: Bucket) -> list[Finding]:
    """A bucket: read, write, conditional write, and the server's clock."""
    try:
        date = found.date()  # before the first write: some servers make a bucket that is written to
        return [try_bucket(found), clock.skew("storage clock", "the S3 server", date)]
    except RaymlError as error:
        return [refused("storage", error)]


def try_bucket(found: Bucket) -> Finding:
    """Write an object, try to write it again in the two ways that have to be refused, read and delete it."""
    path = f"doctor-{secrets.token_hex(8)}"
    etag = found.create(path, CONTENT)
    try:
        if etag is None or found.create(path, OTHER) is not None or found.replace(path, OTHER, '"0"') is not None:
            what = f"{found.uri('')}: the server does not keep conditional writes: two runs could take one name"
            return wrong("storage", what, "use a server that knows If-None-Match and If-Match, such as AWS S3 or MinIO")
        read = found.read(path)
    finally:
        found.delete(path)
    if read is None or read[0] != CONTENT:
        return wrong("storage", f"{found.uri('')}: other bytes come back than were written", "ask who runs the server")
    return ok("storage", f"{found.uri('')} can be written, read and written on condition")


def folder(path: Path, name: str = "storage") -> list[Finding]:
    """A folder, or where it would be made: written with fsync, read, and how much is free."""
    place = nearest(path)
    try:
        return [try_folder(place, path, name), free_space(place)]
    except OSError as error:
        failure = machine_failure(error)
        hint = failure.hint if failure is not None else f"ls -ld {place}"
        return [wrong(name, f"{path} cannot be written: {error.strerror}", hint)]


def nearest(path: Path) -> Path:
    """The folder itself, or the first one above it that is there."""
    absolute = path.absolute()
    return next(each for each in (absolute, *absolute.parents) if each.exists())


def try_folder(place: Path, path: Path, name: str) -> Finding:
    """Write a file that reaches the disk, try to take its name again, and read it."""
    file = place / f".doctor-{secrets.token_hex(8)}"
    try:
        write_atomic(file, CONTENT, mode=0o600)
        if create_exclusive(file, OTHER):
            what = f"{path}: a name can be taken twice there: two runs could take one name"
            return wrong(name, what, "use a file system with hard links, such as ext4, XFS or NFS 4")
        if file.read_bytes() != CONTENT:
            return wrong(name, f"{path}: other bytes come back than were written", "check the disk: dmesg | tail")
    finally:
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
    made = "" if place == path.absolute() else " (not there yet)"
    return ok(name, f"{path}{made} can be written, flushed to the disk and read")


def free_space(place: Path) -> Finding:
    """Room for checkpoints."""
    return enough(place, shutil.disk_usage(place).free)


def enough(place: Path, free: int) -> Finding:
    """Bytes that are free, as a finding."""
    text, hint = f"{size(free)} free at {place}", f"free some space (du -sh {place}/*), or name another --home"
    if free < NEXT_TO_NOTHING:
        return wrong("disk", text, hint)
    return warning("disk", text, hint) if free < LITTLE else ok("disk", text)
