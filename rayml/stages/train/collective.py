"""Sums over all ranks, which one process alone has already."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of every rank's tensor, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def from_first_rank(value: int, device: torch.device) -> int:
    """The first rank's number, which the others take."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value, dtype=torch.int64, device=device)
    dist.broadcast(shared, src=0)
    return int(shared.item())
