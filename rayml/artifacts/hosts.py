"""How what one host of a run has gets to another one, which may not see the same folders.

A store whose folder all hosts see has nothing to carry; for one in a bucket see rayml.artifacts.bucket_hosts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rayml.artifacts.manifest import Artifact
from rayml.artifacts.work import every

CHECKPOINTS = "checkpoints"
"""The folder of a step's work that holds checkpoints. Whoever writes one sees to it that other hosts get it."""

Wants = Callable[[str], bool]
"""Whether a file is meant, by its path below the folder that is sent or fetched."""


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

    def send(self, folder: Path, wants: Wants = every, again: bool = False) -> None:
        """Let other hosts fetch what is new or was changed in a folder; with `again`, also what the storage lost."""

    def remove(self, folder: Path) -> None:
        """Remove a folder here and for the others."""

    def fetch(self, folder: Path, wants: Wants = every, exact: bool = False) -> None:
        """Bring what others sent of a folder. What was only changed here stays; with `exact`, what they removed
        goes."""

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

    def send(self, folder: Path, wants: Wants = every, again: bool = False) -> None:
        pass

    def remove(self, folder: Path) -> None:
        shutil.rmtree(folder)

    def fetch(self, folder: Path, wants: Wants = every, exact: bool = False) -> None:
        pass

    def filesystem(self, folder: Path) -> tuple[Any, str]:
        return None, str(folder)


ONE_FOLDER = OneFolder()
