"""The manifest: what an artifact is, holds, and was made from. Its presence means that the step is whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    path: str
    """Relative to the artifact's folder, with forward slashes."""
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """Written last. Keys that a newer rayml added are tolerated when it is read back."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")

    schema_version: int = SCHEMA_VERSION
    kind: str
    """The step that made it: data, train, export, evaluate or serve."""
    key: str
    """Digest of the step's resolved configuration, its inputs and the code; hex sha256."""
    files: tuple[FileEntry, ...]
    config: dict[str, Any]
    """The resolved configuration that is part of the key."""
    inputs: dict[str, str]
    """Lineage: name of each input to its key."""
    code: str
    """Digest of the code that made it."""
    metrics: dict[str, float]
    facts: dict[str, Any]
    """What later steps and the report need to know: classes, signature, worst sample."""
    environment: dict[str, str]
    """Versions of Python and the libraries, and the processor."""
    made_with: dict[str, str] = {}
    """The image and the code as they were where the step ran (rayml.run.provenance); nothing where an older rayml made
    it."""
    run: str
    """The run that made it."""
    job: str
    created: str
    """UTC, ISO 8601."""
    seconds: float


@dataclass(frozen=True)
class Artifact:
    """A committed step: its manifest, and the folder that holds its files."""

    manifest: Manifest
    path: Path


def digest(document: object) -> str:
    """Hex sha256 of a JSON document. Equal documents have equal digests whatever the order of their keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def list_files(folder: Path) -> list[Path]:
    """Every file below a folder, in a fixed order. Links and special files are refused: they do not travel."""
    found = []
    for path in sorted(folder.rglob("*")):
        assert not path.is_symlink(), f"{path} is a link; an artifact holds plain files"
        if path.is_file():
            found.append(path)
    return found


def describe_files(folder: Path) -> tuple[FileEntry, ...]:
    """Path, size and sha256 of every file below a folder."""
    return tuple(describe_file(folder, path) for path in list_files(folder))


def describe_file(folder: Path, path: Path) -> FileEntry:
    """The entry of one file of a folder."""
    return FileEntry(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=file_sha256(path))
