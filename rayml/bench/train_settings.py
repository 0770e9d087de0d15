"""What both training sides of `rayml bench train` are told: one file, so that neither can be given something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


class TrainSettings(BaseModel):
    """The work: the same rows in the same order, the same model, optimizer, threads and checkpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path
    """Folder of canonical shards."""
    folder: Path
    """Takes the gate, the log and the checkpoints of one side."""
    laps: int
    epochs_per_lap: int
    rows: int
    """Of the training split."""
    batch_size: int
    """Of all ranks together."""
    model: dict[str, Any]
    """The `model` section, resolved."""
    strategy: dict[str, Any] = {"kind": "ddp"}
    """The `strategy` section."""
    blocks: tuple[str, ...] = ()
    """Class names of the modules that are sharded as one."""
    recipe: dict[str, Any] = {}
    """What else rayml's `train` section has; the alternative does not know it."""
    lr: float = 2e-3
    seed: int = 7
    ranks: int = 2
    threads: int = 1
    """Per rank."""
    launcher: str = "auto"
    """Who starts rayml's ranks."""
    first_step: Path | None = None
    """A file that the alternative makes after its first optimizer step."""
    loader_workers: int = 0
    """Of the alternative's DataLoader."""

    @property
    def epochs(self) -> int:
        return self.laps * self.epochs_per_lap

    @property
    def path(self) -> Path:
        return self.folder / "settings.json"

    def save(self) -> Path:
        self.folder.mkdir(parents=True)
        self.path.write_text(self.model_dump_json(indent=1))
        return self.path


def load_settings(path: str) -> TrainSettings:
    """The settings that `save` wrote."""
    return TrainSettings.model_validate_json(Path(path).read_bytes())
