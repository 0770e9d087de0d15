"""The running statistics of batch norm, of which each rank has seen other rows."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from rayml.stages.train.placed import by_kind


def has_running_statistics(model: nn.Module) -> bool:
    """Whether a layer keeps statistics while it trains: only then do buffers have to be sent around."""
    return any(getattr(module, "track_running_stats", False) for module in model.modules())


def share_statistics(model: nn.Module) -> None:
    """Give every rank the first one's, which are those that a checkpoint keeps.

    One message for all of a kind: one for each of a ResNet-18's 62 buffers took 50 ms of processor time through gloo.
    """
    if not dist.is_initialized() or not has_running_statistics(model):
        return
    buffers = list(model.buffers())
    for positions in by_kind(buffers):
        alike = [buffers[position] for position in positions]
        message = torch.cat([buffer.flatten() for buffer in alike])
        dist.broadcast(message, src=0)
        parts = torch.split(message, [buffer.numel() for buffer in alike])
        for buffer, shared in zip(alike, parts, strict=True):
            buffer.copy_(shared.view_as(buffer))
