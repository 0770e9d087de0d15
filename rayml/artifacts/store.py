"""The artifact store: content-addressed, and a half-written artifact is never found.

Layout below the store's root::

    train/3f2a9c01d4e7/manifest.json     written last, created exactly once
    train/3f2a9c01d4e7/files-9b1c/...    the attempt that the manifest's owner wrote
    train/3f2a9c01d4e7/work/...          checkpoints of a step that is not finished

Each attempt to commit writes its files to a folder of its own. The manifest is created with "only if absent", so the
first whole attempt wins, the other is dropped, and no attempt can touch another's files. The same order of steps works
on an object store with a conditional PUT.
"""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from rayml.artifacts.durable import create_exclusive, sync_folder, sync_tree
from rayml.artifacts.hosts import ONE_FOLDER, Hosts
from rayml.artifacts.manifest import Artifact, Manifest, describe_files, file_sha256
from rayml.errors import RaymlError

KEY_CHARACTERS = 16
"""Hex digits of the key in folder names: 64 bits, so that two of a billion artifacts meet with chance 3 in 100."""


@dataclass(frozen=True)
class Fault:
    """Something that an artifact promised and no longer keeps."""

    artifact: str
    file: str
    what: str


class Store(Protocol):
    """What keeps artifacts. Every implementation passes tests/contract/store.py."""

    def find(self, kind: str, key: str) -> Artifact | None:
        """The artifact of a key, or None. Never a half-written one, nor one that lost a file or a part of one."""
        ...

    def look(self, kind: str, key: str) -> Artifact | None:
        """As `find`, and no file is brought here: its path holds the files once `find` was asked for it."""
        ...

    def damage(self, kind: str, key: str) -> list[Fault]:
        """Why `find` refuses what was committed under a key; empty where it is whole, or nothing was committed."""
        ...

    def staging(self, kind: str, key: str) -> Path:
        """A new empty local folder to write an artifact's files into."""
        ...

    def commit(self, folder: Path, manifest: Manifest) -> Artifact:
        """Make a staging folder an artifact. Where the key was committed meanwhile, that artifact is returned.

        It takes the place of one that was damaged, which is put aside.
        """
        ...

    def work(self, kind: str, key: str) -> Path:
        """A folder that outlives a crash of the step that computes this key; checkpoints live there."""
        ...

    def hosts(self) -> Hosts:
        """How what this host has gets to others."""
        ...

    def exclusive(self, kind: str, key: str, waiting: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold a key alone, so that two runs do not both compute it. Calls `waiting` once if it has to wait."""
        ...

    def artifacts(self) -> Iterator[Artifact]:
        """Every committed artifact whose manifest can be read."""
        ...

    def unreadable(self) -> list[Fault]:
        """Every manifest that cannot be read."""
        ...

    def verify(self, artifact: Artifact) -> list[Fault]:
        """Read every file again and compare it with the manifest; empty where all is as it was."""
        ...


class Record(BaseModel):
    """What manifest.json holds: the manifest, and which attempt's folder it speaks of."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    attempt: str
    manifest: Manifest


class LocalStore:
    """Artifacts in a folder of the local disk, or of a file system that all nodes share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, kind: str, key: str) -> Artifact | None:
        artifact = self._read(self._folder(kind, key))
        if artifact is None or artifact.manifest.key != key or next(_missing(artifact), None):
            return None
        return artifact

    def look(self, kind: str, key: str) -> Artifact | None:
        return self.find(kind, key)

    def damage(self, kind: str, key: str) -> list[Fault]:
        folder = self._folder(kind, key)
        artifact = self._read(folder)
        if artifact is not None:
            return list(_missing(artifact))
        return [_torn(folder)] if (folder / "manifest.json").exists() else []

    def staging(self, kind: str, key: str) -> Path:
        folder = self._folder(kind, key) / f"files-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        return folder

    def commit(self, folder: Path, manifest: Manifest) -> Artifact:
        home = self._folder(manifest.kind, manifest.key)
        assert folder.parent == home, f"{folder} is not a staging folder of {manifest.kind} {manifest.key}"
        sync_tree(folder)
        sync_folder(home)
        complete = manifest.model_copy(update={"files": describe_files(folder)})
        entry = Record(attempt=folder.name, manifest=complete)
        content = entry.model_dump_json(indent=1).encode()
        while not create_exclusive(home / "manifest.json", content):
            committed = self.find(manifest.kind, manifest.key)
            if committed is not None:
                shutil.rmtree(folder)
                return committed
            self._put_aside(home, manifest.key)
        shutil.rmtree(self._work_folder(manifest.kind, manifest.key), ignore_errors=True)
        return Artifact(complete, folder)

    def work(self, kind: str, key: str) -> Path:
        folder = self._work_folder(kind, key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def hosts(self) -> Hosts:
        return ONE_FOLDER

    @contextlib.contextmanager
    def exclusive(self, kind: str, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        home = self._folder(kind, key)
        home.mkdir(parents=True, exist_ok=True)
        with (home / "lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def artifacts(self) -> Iterator[Artifact]:
        for path in sorted(self.root.glob("*/*/manifest.json")):
            artifact = self._read(path.parent)
            if artifact is not None:
                yield artifact

    def unreadable(self) -> list[Fault]:
        folders = [path.parent for path in sorted(self.root.glob("*/*/manifest.json"))]
        return [_torn(folder) for folder in folders if self._read(folder) is None]

    def verify(self, artifact: Artifact) -> list[Fault]:
        faults = list(_missing(artifact))
        told = {fault.file for fault in faults}
        for entry in artifact.manifest.files:
            path = artifact.path / entry.path
            if str(path) not in told and file_sha256(path) != entry.sha256:
                faults.append(Fault(_name(artifact), str(path), "has other bytes than were written (sha256 differs)"))
        return faults

    def _folder(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:KEY_CHARACTERS]

    def _work_folder(self, kind: str, key: str) -> Path:
        return self._folder(kind, key) / "work"

    def _read(self, folder: Path) -> Artifact | None:
        try:
            entry = Record.model_validate_json((folder / "manifest.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        return Artifact(entry.manifest, folder / entry.attempt)

    def _put_aside(self, home: Path, key: str) -> None:
        """Rename a manifest that speaks of a damaged artifact. RaymlError where it is whole and of another key."""
        standing = self._read(home)
        if standing is not None and standing.manifest.key != key:
            raise RaymlError(
                f"two keys begin with {home.name}: {standing.manifest.key} and {key}",
                where=str(home),
                hint="move that folder away and run again",
            )
        with contextlib.suppress(FileNotFoundError):
            (home / "manifest.json").rename(home / f"damaged-{secrets.token_hex(4)}.json")


def _name(artifact: Artifact) -> str:
    return f"{artifact.manifest.kind}/{artifact.manifest.key[:KEY_CHARACTERS]}"


def _torn(folder: Path) -> Fault:
    return Fault(f"{folder.parent.name}/{folder.name}", str(folder / "manifest.json"), "cannot be read")


def _missing(artifact: Artifact) -> Iterator[Fault]:
    """What can be seen of a damage without reading a file: absent ones and those of another size."""
    for entry in artifact.manifest.files:
        path = artifact.path / entry.path
        try:
            size = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            yield Fault(_name(artifact), str(path), "is missing")
            continue
        if size != entry.bytes:
            yield Fault(_name(artifact), str(path), f"has {size} bytes, was {entry.bytes}")
