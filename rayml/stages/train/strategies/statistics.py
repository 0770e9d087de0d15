"""The running statistics of batch norm, of which each rank has seen other rows."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn


def has_running_statistics(model: nn.Module) -> bool:
    """Whether a layer keeps statistics while it trains: only then do buffers have to be sent around."""
    return any(getattr(module, "track_running_stats", False) for module in model.modules())


def share_statistics(model: nn.Module) -> None:
    """Give every rank the first one's, which are those that a checkpoint keeps."""
    if dist.is_initialized() and has_running_statistics(model):
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
