"""The memory that a worker will need: kept by what decides it, so that a plan shows it without importing torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rayml.artifacts.durable import write_atomic
from rayml.artifacts.manifest import Artifact, digest
from rayml.plan.plan import Step

FOLDER = "estimates"
"""Below the home folder."""
SCHEMA_FILE = "schema.json"

WITHOUT_EFFECT = ("seed", "epochs", "schedule", "early_stopping", "best", "deterministic", "compile", "start")
"""Keys of a train step's configuration that no byte depends on. The estimate leaves out what torch.compile saves."""


class MemoryEstimate(BaseModel):
    """Bytes of tensors at the moment when one worker holds most, on the device that it trains on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    parts: dict[str, int]
    """weights, gradients, optimizer, activations, communication, average: what the peak is made of."""
    checkpoint: int = 0
    """Bytes in the host's memory besides: the copies from which a worker writes checkpoints."""

    @property
    def total(self) -> int:
        """The peak."""
        return sum(self.parts.values())


def estimate_key(step: Step, schema: dict[str, Any]) -> str:
    """What decides an estimate, as a digest.

    Args:
        step: the train step.
        schema: the document schema.json of the data step's artifact.
    """
    config = {key: value for key, value in step.config.items() if key not in WITHOUT_EFFECT}
    optimizer = {key: value for key, value in config["optimizer"].items() if key != "lr"}
    row = {"feature": schema["feature"], "classes": len(schema["classes"])}
    gpu = step.resources.gpus_per_worker > 0
    return digest({**config, "optimizer": optimizer, "row": row, "gpu": gpu, "code": step.code})


def schema_of(data: Artifact) -> dict[str, Any]:
    """What a row is, from the data step's artifact."""
    schema: dict[str, Any] = json.loads((data.path / SCHEMA_FILE).read_bytes())
    return schema


def kept_estimate(home: Path, key: str) -> MemoryEstimate | None:
    """The estimate that was made before, if there is one that can be read."""
    try:
        return MemoryEstimate.model_validate_json(_path(home, key).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def keep_estimate(home: Path, key: str, estimate: MemoryEstimate) -> None:
    """Keep an estimate for the plans to come."""
    path = _path(home, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(estimate.model_dump()).encode())


def _path(home: Path, key: str) -> Path:
    return home / FOLDER / f"{key[:32]}.json"
