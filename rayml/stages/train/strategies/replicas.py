"""What copies of a model tell each other once per step, where the copy itself is in parts on several ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rayml.stages.train.placed import own_part

BUCKET_BYTES = 25 * 2**20
"""Sent at once: DistributedDataParallel's default. More costs memory for the copy and gains nothing."""


def sum_gradients(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
    """Add up the gradients, in place, over the ranks that hold the same part of each copy."""
    gradients = [own_part(parameter.grad) for parameter in parameters if parameter.grad is not None]
    for bucket in buckets(gradients):
        sum_tensors(bucket, group)


def buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in their order, those of one dtype that follow each other together as far as a bucket holds them."""
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if bucket and (held + tensor.nbytes > BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.nbytes
    if bucket:
        yield bucket


def sum_tensors(tensors: list[Tensor], group: dist.ProcessGroup) -> None:
    """Add up tensors of one dtype over a group, in place, with one message."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat, group=group)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)])


def share_buffers(module: nn.Module, group: dist.ProcessGroup) -> None:
    """Give every copy the running statistics of the first one: each has seen other rows, and that one's are kept."""
    for buffer in module.buffers():
        dist.broadcast(buffer, group=group, group_src=0)
