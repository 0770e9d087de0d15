"""Zip archives that torch and numpy read: what rayml reads is never compressed, so one that is was made by another."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path

from rayml.errors import StageError


def refuse_compressed(path: Path, where: str, hint: str) -> None:
    """StageError for an archive whose entries are larger together than the file; nothing for what is no archive."""
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        unpacked, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
        if unpacked > size:
            what = f"{path.name} has {size:,} bytes and unpacks to {unpacked:,}; what is stored here is not compressed"
            raise StageError(what, where=where, hint=hint)
