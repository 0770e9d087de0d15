"""Folders of a worker on a local disk, for what is swapped. It removes them, or the next one where it was killed.

A living worker holds a lock on each of its folders (flock), which the kernel lets go however the process ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rayml.errors import StageError

PREFIX = "rayml-swap-"

TAKEN: dict[Path, int] = {}
"""This process's folders, and the descriptors that hold their locks."""


def take_folder(base: Path) -> Path:
    """A new folder below `base` that is this process's alone, after those of dead workers are removed.

    StageError where none can be made, and where files there cannot be written past the page cache.
    """
    try:
        base.mkdir(parents=True, exist_ok=True)
        with locked(base):
            remove_orphans(base)
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            TAKEN[folder] = os.open(folder, os.O_RDONLY)
            fcntl.flock(TAKEN[folder], fcntl.LOCK_EX)
        probe = folder / "probe"
        os.close(os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
        probe.unlink()
    except OSError as error:
        raise StageError(
            f"{base} on {os.uname().nodename} cannot be swapped to: {error.strerror}",
            where="train.strategy.nvme_path",
            hint="name a folder of a local disk that this user may write to, and whose files take direct access",
        ) from error
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While the lock of a folder is held. Waits for it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_orphans(base: Path) -> None:
    """Remove the folders whose lock nobody holds."""
    for folder in base.glob(f"{PREFIX}*"):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


@contextmanager
def room_for(folder: Path, size: int) -> Iterator[None]:
    """While so many bytes of a folder's disk are taken. StageError where they are not there.

    DeepSpeed does not look at what became of a write: on a full disk it would train on with what lay there before.
    """
    blank = folder / "room"
    try:
        with blank.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, size))
        yield
    except OSError as error:
        raise StageError(
            f"{folder.parent} on {os.uname().nodename} has no room for {size / 1e9:,.2f} GB of this worker: "
            f"{error.strerror}",
            where="train.strategy.nvme_path",
            hint="make room there, name a folder of a larger disk, or train with more workers",
        ) from error
    finally:
        blank.unlink(missing_ok=True)


def remove_folders() -> None:
    """Remove this process's folders."""
    while TAKEN:
        folder, descriptor = TAKEN.popitem()
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
