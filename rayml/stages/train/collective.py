"""Sums over all ranks, which one process alone has already."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather_texts(text: str, device: torch.device) -> list[str]:
    """What each rank says, by rank."""
    if not dist.is_initialized():
        return [text]
    own = torch.tensor(list(text.encode()), dtype=torch.uint8)
    longest = torch.tensor(len(own), dtype=torch.int64, device=device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    padded = torch.nn.functional.pad(own, (0, int(longest.item()) - len(own))).to(device)
    found = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(found, padded)
    return [bytes(each.tolist()).rstrip(b"\0").decode() for each in found]


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
