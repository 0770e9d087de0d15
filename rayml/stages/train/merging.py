"""From the weights that were trained to those of the model that the job names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayml.ml.adapters import add_adapter, merge_adapter
from rayml.ml.models import build_model
from rayml.ml.shards import ShardSet, load_schema
from rayml.stages.train.fake_quant import RANGE
from rayml.stages.train.matching import MATCHING

ROWS = 32
"""Rows of the validation split for which the answers before and after are compared."""


def without_helpers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without those that only training needed: projections to a teacher, ranges of fake quantization."""
    return {
        name: each for name, each in weights.items() if not name.startswith(f"{MATCHING}.") and f".{RANGE}." not in name
    }


def without_adapter(
    train: dict[str, Any], weights: dict[str, Tensor], data: Path, code: str | None
) -> dict[str, Tensor]:
    """The weights under their own names, with the adapter merged into them. StageError where the answers change."""
    schema = load_schema(data)
    model = build_model(train["model"], schema, code)
    add_adapter(model, train["adapter"], schema)
    model.load_state_dict(weights)
    model.eval()
    val_set = ShardSet.open(data, "val")
    records, _ = val_set.gather(np.arange(min(ROWS, len(val_set))))
    merge_adapter(model, torch.from_numpy(records))
    return dict(model.state_dict())
