"""The validation split, shared out over the ranks."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from rayml.ml import order, tasks
from rayml.ml.shards import ShardSet

VALIDATION_ROWS = 256
"""Rows of a validation batch at least: without gradients there is memory for more than in training."""


@torch.no_grad()
def validate(model: torch.nn.Module, val_set: ShardSet, batch_size: int, device: torch.device) -> tuple[float, float]:
    """Mean loss and accuracy over all rows of the validation split, each rank reading its share."""
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    first, last = order.share(0, len(val_set), dist.get_rank(), dist.get_world_size())
    batch_size = max(batch_size, VALIDATION_ROWS)
    for start in range(first, last, batch_size):
        features, labels = val_set.gather(np.arange(start, min(start + batch_size, last)))
        targets = torch.from_numpy(labels).to(device)
        logits = model(torch.from_numpy(features).to(device))
        sums += torch.stack([tasks.loss_sum(logits, targets).double(), tasks.count_correct(logits, targets).double()])
    dist.all_reduce(sums)
    model.train()
    loss, correct = (sums / len(val_set)).tolist()
    return loss, correct
