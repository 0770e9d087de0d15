"""Hosts that exchange files by a bucket. Each has a folder laid out like it, so a path means the same everywhere::

<root>/artifacts/train/3f2a9c01d4e7/work/checkpoints/...   s3://bucket/prefix/artifacts/train/3f2a9c01d4e7/work/...
<root>/runs/digits-1/logs/...                              s3://bucket/prefix/runs/digits-1/logs/...
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rayml.artifacts.bucket import Bucket
from rayml.artifacts.bucket_filesystem import filesystem
from rayml.artifacts.durable import create_exclusive
from rayml.artifacts.hosts import CHECKPOINTS, Wants
from rayml.artifacts.manifest import Artifact, digest
from rayml.artifacts.work import every, pull, push, remove
from rayml.errors import BackendError

HOST_FILE = ".host"
SYNCED_FOLDER = ".synced"


class Cached(Protocol):
    """A store in a bucket (rayml.artifacts.s3), and its folder on this host."""

    bucket: Bucket
    cache: Path

    def bring(self, artifact: Artifact) -> None:
        """Have the files of a committed artifact in this host's folder."""


@dataclass(frozen=True)
class Unit:
    """A folder that is sent and fetched by one list of what was last the same here and there."""

    folder: Path
    bucket: Bucket
    remote: str
    """Its path in the bucket, with a slash at its end."""


@dataclass(frozen=True)
class BucketHosts:
    """Hosts exchange by a bucket. A folder outside of the store's own root is not carried."""

    store: Cached
    origin: str
    """Token of the host where this object was made."""

    share_folders = False

    def apart(self) -> bool:
        return token_of(self.store.cache) != self.origin

    def bring(self, artifact: Artifact) -> None:
        self.make(artifact.path.parent)
        unit = self.unit(artifact.path)
        assert unit is not None, f"{artifact.path} is no artifact of the store"
        with self._alone(unit):  # the first process of a host downloads it, and the others find it
            self.store.bring(artifact)

    def make(self, folder: Path) -> None:
        make_private(self.store.cache.parent)
        folder.mkdir(parents=True, exist_ok=True)

    def send(self, folder: Path, wants: Wants = every, again: bool = False) -> None:
        unit = self.unit(folder)
        if unit is not None and folder.exists():
            with self._alone(unit) as index:
                push(unit.folder, unit.bucket, unit.remote, index, below(folder, unit.folder, wants), again)

    def remove(self, folder: Path) -> None:
        unit = self.unit(folder)
        if unit is not None:
            with self._alone(unit) as index:
                remove(unit.folder, unit.bucket, unit.remote, index, below(folder, unit.folder, every))
        shutil.rmtree(folder, ignore_errors=True)

    def fetch(self, folder: Path, wants: Wants = every, exact: bool = False) -> None:
        unit = self.unit(folder)
        if unit is not None:
            self.make(folder)
            with self._alone(unit) as index:
                pull(unit.folder, unit.bucket, unit.remote, index, below(folder, unit.folder, wants), exact)

    def filesystem(self, folder: Path) -> tuple[Any, str]:
        unit = self.unit(folder)
        assert unit is not None, f"{folder} is no folder of the storage"
        address = unit.bucket.uri(unit.remote + folder.relative_to(unit.folder).as_posix())
        return filesystem(unit.bucket), address.removeprefix("s3://")

    def unit(self, folder: Path) -> Unit | None:
        """What the folder belongs to: a step's work or files, or a run; None where it is no part of the storage."""
        cache, bucket = self.store.cache, self.store.bucket
        runs = cache.parent / "runs"
        for root, there, depth in ((cache, bucket, 3), (runs, bucket.beside("runs"), 1)):
            if folder.is_relative_to(root):
                parts = folder.relative_to(root).parts
                # What is large and slow to send keeps nobody from sending the rest of a step's work.
                parts = parts[: depth + 1] if parts[2:4] == ("work", CHECKPOINTS) else parts[:depth]
                return Unit(root.joinpath(*parts), there, "".join(f"{part}/" for part in parts))
        return None

    @contextlib.contextmanager
    def _alone(self, unit: Unit) -> Iterator[Path]:
        """The unit's list, held alone among the processes of this host."""
        folder = self.store.cache / SYNCED_FOLDER
        self.make(folder)
        index = folder / f"{digest({'folder': str(unit.folder)})[:16]}.json"
        with index.with_suffix(".lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield index


def hosts_of(store: Cached) -> BucketHosts:
    """The hosts as seen from this one."""
    make_private(store.cache.parent)
    store.cache.mkdir(exist_ok=True)
    if not (store.cache / HOST_FILE).exists():
        create_exclusive(store.cache / HOST_FILE, secrets.token_hex(16).encode())
    return BucketHosts(store, token_of(store.cache))


def token_of(cache: Path) -> str:
    """What tells this host's folder from the same folder of another; empty where nothing was ever done here."""
    try:
        return (cache / HOST_FILE).read_text()
    except FileNotFoundError:
        return ""


def make_private(folder: Path) -> None:
    """Make a folder that only this user can enter. BackendError where somebody else can write to the one that is there.

    User code is imported from it, and its name can be guessed.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    for each in (folder.parent, folder):
        found = each.lstat()
        safe = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
        if not safe:
            raise BackendError(
                "this folder belongs to another user, or others can write to it",
                where=str(each),
                hint="remove it, or set TMPDIR to a folder of your own",
            )


def below(folder: Path, unit: Path, wants: Wants) -> Wants:
    """Whether a file of the unit lies in the folder and is meant."""
    beginning = "" if folder == unit else f"{folder.relative_to(unit).as_posix()}/"
    return lambda name: name.startswith(beginning) and wants(name.removeprefix(beginning))
