"""Structured pruning of our transformer: whole attention heads and feed-forward units. The residual width stays.

A dependency graph does not know which rows of q, k and v are one head: it would deal them out anew.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rayml.ml.transformer import Attention, FeedForward
from rayml.spec.words import listed

WIDE, LANES = 32, 8
"""Of a layer as wide as this a multiple of 8 units is left, which is what processors compute at once."""


def has_heads(model: nn.Module) -> bool:
    """Whether the network is made of our own attention."""
    return any(isinstance(each, Attention) for each in model.modules())


@torch.no_grad()
def take_out_heads(model: nn.Module, share: float, kept: list[nn.Module], multiple: int | str, by_loss: bool) -> None:
    """Take a share of the heads and units out of each block, in place.

    Args:
        kept: layers that stay: those of a block's attention or feed-forward part keep all of it.
        multiple: of how many units is left, or "auto".
        by_loss: rank by weight times gradient (Taylor), which has to be there; by the weights' norm otherwise.
    """
    for part in model.modules():
        if not isinstance(part, Attention | FeedForward):
            continue
        if any(layer is each for layer in part.modules() for each in kept):
            continue
        if isinstance(part, Attention):
            inner, outer, width = [part.q, part.k, part.v], part.o, part.head_width
        else:
            inner, outer, width = [part.up], part.down, 1
        worth = sum(worth_of(layer, 0, by_loss) for layer in inner) + worth_of(outer, 1, by_loss)
        assert isinstance(worth, Tensor), "every part has layers"
        groups = worth.reshape(-1, width).sum(1)
        left = left_of(len(groups), share, 1 if width > 1 else multiple)
        stays = groups.topk(left).indices.sort().values
        places = (stays[:, None] * width + torch.arange(width)).flatten()
        for layer in inner:
            keep_rows(layer, places)
        keep_columns(outer, places)


def worth_of(layer: nn.Linear, dim: int, by_loss: bool) -> Tensor:
    """What each output (dim 0) or input (dim 1) of a layer is worth, `[outputs or inputs]` float32."""
    weight = layer.weight
    values = weight * weight.grad if by_loss and weight.grad is not None else weight
    return values.square().sum(1 - dim)


def left_of(number: int, share: float, multiple: int | str) -> int:
    """How many heads or units are left, at least one."""
    of = (LANES if number >= WIDE else 1) if multiple == "auto" else int(multiple)
    return min(number, max(of, round(number * (1 - share) / of) * of))


def keep_rows(layer: nn.Linear, places: Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight[places].clone())
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[places].clone())
    layer.out_features = len(places)


def keep_columns(layer: nn.Linear, places: Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight[:, places].clone())
    layer.in_features = len(places)


def refuse_importance(importance: Any) -> str | None:
    """Why this importance does not rank heads; None where it does."""
    known = ("magnitude", "taylor")
    return None if importance in known else f"{importance} does not rank heads; write {listed(known)}"
