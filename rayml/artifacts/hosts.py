"""How what one host of a run has gets to another one, which may not see the same folders.

A store whose folder all hosts see has nothing to carry. One in a bucket has a folder of its own on each host, laid out
like the bucket, so a path means the same everywhere::

    <root>/artifacts/train/3f2a9c01d4e7/work/checkpoints/...   s3://bucket/prefix/artifacts/train/3f2a9c01d4e7/work/...
    <root>/runs/digits-1/logs/...                              s3://bucket/prefix/runs/digits-1/logs/...
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rayml.artifacts.bucket import Bucket
from rayml.artifacts.durable import create_exclusive
from rayml.artifacts.manifest import digest
from rayml.artifacts.work import every, pull, push

if TYPE_CHECKING:
    from rayml.artifacts.s3 import S3Store
    from rayml.artifacts.store import Artifact

Wants = Callable[[str], bool]
"""Whether a file is meant, by its path below the folder that is sent or fetched."""

HOST_FILE = ".host"
SYNCED_FOLDER = ".synced"


class Hosts(Protocol):
    """Travels to workers on any host; each method acts where it is called."""

    @property
    def share_folders(self) -> bool:
        """Whether every host sees the same folders."""

    def apart(self) -> bool:
        """Whether this host does not see the folders of the host where this object was made."""

    def bring(self, artifact: Artifact) -> None:
        """Have the artifact's files at its path on this host."""

    def make(self, folder: Path) -> None:
        """Make a folder of the run on this host."""

    def send(self, folder: Path, wants: Wants = every) -> None:
        """Let other hosts fetch what is new or was changed in a folder; they lose what was removed from it here."""

    def fetch(self, folder: Path, wants: Wants = every) -> None:
        """Bring what others sent of a folder. What was only changed here stays."""

    def filesystem(self, folder: Path) -> tuple[Any, str]:
        """A pyarrow file system on which all hosts see a folder of the run, and its path there; None: the local one."""


@dataclass(frozen=True)
class OneFolder:
    """Every host sees the same folders."""

    share_folders = True

    def apart(self) -> bool:
        return False

    def bring(self, artifact: Artifact) -> None:
        pass

    def make(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def send(self, folder: Path, wants: Wants = every) -> None:
        pass

    def fetch(self, folder: Path, wants: Wants = every) -> None:
        pass

    def filesystem(self, folder: Path) -> tuple[Any, str]:
        return None, str(folder)


ONE_FOLDER = OneFolder()


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

    store: S3Store
    origin: str
    """Token of the host where this object was made."""

    share_folders = False

    def apart(self) -> bool:
        return token_of(self.store.cache) != self.origin

    def bring(self, artifact: Artifact) -> None:
        self.make(artifact.path.parent)
        self.store.bring(artifact)

    def make(self, folder: Path) -> None:
        make_private(self.store.cache.parent)
        folder.mkdir(parents=True, exist_ok=True)

    def send(self, folder: Path, wants: Wants = every) -> None:
        unit = self.unit(folder)
        if unit is not None and folder.exists():
            with self._alone(unit) as index:
                push(unit.folder, unit.bucket, unit.remote, index, below(folder, unit.folder, wants))

    def fetch(self, folder: Path, wants: Wants = every) -> None:
        unit = self.unit(folder)
        if unit is not None:
            self.make(folder)
            with self._alone(unit) as index:
                pull(unit.folder, unit.bucket, unit.remote, index, below(folder, unit.folder, wants))

    def filesystem(self, folder: Path) -> tuple[Any, str]:
        from pyarrow.fs import S3FileSystem

        unit = self.unit(folder)
        assert unit is not None, f"{folder} is no folder of the storage"
        address = unit.bucket.uri(unit.remote + folder.relative_to(unit.folder).as_posix())
        # boto3's names for a server that is not AWS's; credentials and region it finds as boto3 does.
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return S3FileSystem(endpoint_override=endpoint), address.removeprefix("s3://")

    def unit(self, folder: Path) -> Unit | None:
        """What the folder belongs to: a step's work or files, or a run; None where it is no part of the storage."""
        cache, bucket = self.store.cache, self.store.bucket
        runs = cache.parent / "runs"
        for root, there, depth in ((cache, bucket, 3), (runs, bucket.beside("runs"), 1)):
            if folder.is_relative_to(root):
                parts = folder.relative_to(root).parts[:depth]
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


def hosts_of(store: S3Store) -> BucketHosts:
    """The hosts as seen from this one."""
    make_private(store.cache.parent)
    store.cache.mkdir(exist_ok=True)
    create_exclusive(store.cache / HOST_FILE, secrets.token_hex(16).encode())
    return BucketHosts(store, token_of(store.cache))


def token_of(cache: Path) -> str:
    """What tells this host's folder from the same folder of another; empty where nothing was ever done here."""
    try:
        return (cache / HOST_FILE).read_text()
    except FileNotFoundError:
        return ""


def make_private(folder: Path) -> None:
    """Make a folder that only this user can enter, unless it is there."""
    if not folder.exists():
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def below(folder: Path, unit: Path, wants: Wants) -> Wants:
    """Whether a file of the unit lies in the folder and is meant."""
    beginning = "" if folder == unit else f"{folder.relative_to(unit).as_posix()}/"
    return lambda name: name.startswith(beginning) and wants(name.removeprefix(beginning))
