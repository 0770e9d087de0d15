"""What the data step is told: the `data` section with every "auto" that needs no data resolved, and the seed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from rayml.spec.base import Auto
from rayml.spec.data import ImageSpec, Source, SplitSpec

Task = Literal["image_classification", "tabular_classification"]


class DataConfig(BaseModel):
    """The configuration of a data step. Each field means what it means in `rayml.spec.data.DataSpec`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: Source
    label: str
    image: ImageSpec
    columns: tuple[str, ...] | Auto
    normalize: Literal["standard", "minmax", "none"]
    missing: Literal["error", "mean", "median"]
    split: SplitSpec
    shard_rows: int
    seed: int
    task: Task
    fingerprint: str
    """Digest of the source's files, computed by the plan. It is here to be part of the step's key."""
