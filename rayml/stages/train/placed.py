"""Tensors whole or sharded (DTensor): which can share one call, and how a loaded one is laid out."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: object) -> TypeGuard[DTensor]:
    """Whether it is a DTensor. That module takes half a second to import: where nobody has, there is none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def kind_of(tensor: Tensor) -> tuple[object, ...]:
    """Tensors of one kind can stand in one fused or `torch._foreach_` call: the same mesh, device and dtype."""
    mesh = tensor.device_mesh if is_sharded(tensor) else None
    return (mesh, tensor.device, tensor.dtype)


def by_kind(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Positions of the tensors, put together by kind."""
    kinds: dict[tuple[object, ...], list[int]] = {}
    for position, tensor in enumerate(tensors):
        kinds.setdefault(kind_of(tensor), []).append(position)
    return list(kinds.values())


def any_sharded(tensors: Iterable[Tensor]) -> bool:
    return any(is_sharded(tensor) for tensor in tensors)


def laid_out_like(like: Tensor, tensor: Tensor) -> Tensor:
    """A copy of `tensor` on the device, with the strides and the shards of `like`, which has the same shape.

    The strides matter: the fused kernels on the CPU walk weights and moments side by side in memory, whatever the
    strides say. A whole tensor for a sharded one is cut by each rank, so every rank has to hand in the same.
    """
    if is_sharded(like) and not is_sharded(tensor):
        from torch.distributed.tensor import distribute_tensor

        tensor = distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    copy = torch.empty_like(like, dtype=tensor.dtype, requires_grad=False)
    return copy.copy_(tensor)


def laid_out_like_all(held: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by name as `held` has those of the same names; others as they are."""
    return {name: laid_out_like(held[name], each) if name in held else each for name, each in tensors.items()}


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor; the same memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def shrink_to_norm(parts: list[Tensor], limit: float, norm: Tensor) -> None:
    """Scale tensors down to a norm. `parts`: what this rank holds of them; `norm`: their 2-norm now, all together."""
    if parts:
        torch._foreach_mul_(parts, (limit / (norm + 1e-6)).clamp(max=1.0).to(parts[0].device))


def norm_of(tensors: list[Tensor]) -> Tensor:
    """The 2-norm of all tensors together, a scalar. Sharded ones count whole; the others are the same on every rank."""
    kinds = [get_total_norm([tensors[position] for position in positions]) for positions in by_kind(tensors)]
    whole = [norm.full_tensor() if is_sharded(norm) else norm for norm in kinds]
    return whole[0] if len(whole) == 1 else torch.linalg.vector_norm(torch.stack(whole))


def norms(tensors: list[Tensor]) -> Tensor:
    """The norm of each whole tensor, `[len(tensors)]`; one all-reduce for all of them where they are sharded."""
    found = torch.stack(torch._foreach_norm(tensors))
    return found.full_tensor() if is_sharded(found) else found
