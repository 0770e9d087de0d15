"""Writing that survives a crash: bytes reach the disk before the name that announces them appears."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from rayml.artifacts.manifest import list_files


def sync_file(path: Path) -> None:
    """Flush a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk (Linux and macOS open folders like files)."""
    sync_file(folder)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below a folder."""
    for path in list_files(folder):
        sync_file(path)
    for path in (folder, *(entry for entry in folder.rglob("*") if entry.is_dir())):
        sync_folder(path)


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file in one step: a reader sees the old bytes or the new ones, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    _write(temporary, content, mode)
    temporary.replace(path)
    sync_folder(path.parent)


def create_exclusive(path: Path, content: bytes, mode: int = 0o644) -> bool:
    """Create a file whole, or return False where the name is taken already. Nothing is ever replaced."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    _write(temporary, content, mode)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    sync_folder(path.parent)
    return True


def _write(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
