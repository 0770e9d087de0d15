"""What a recipe does to each element of the gradients alone, so that a part of them is enough."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayml.stages.train.placed import own_part
from rayml.stages.train.strategies.base import Recipe


def treat_elements(gradients: list[Tensor], parameters: list[nn.Parameter], recipe: Recipe, loss_scale: float) -> None:
    """Take the loss scale away, add the L1 penalty, clip by value; in place.

    Args:
        gradients: what this rank holds of them.
        parameters: those that they belong to.
        loss_scale: what the loss was multiplied by.
    """
    if loss_scale != 1.0:
        torch._foreach_div_(gradients, loss_scale)
    if recipe.l1:
        signs = torch._foreach_sign([own_part(parameter.detach()) for parameter in parameters])
        torch._foreach_add_(gradients, signs, alpha=recipe.l1)
    if recipe.clip_value is not None:
        torch._foreach_clamp_min_(gradients, -recipe.clip_value)
        torch._foreach_clamp_max_(gradients, recipe.clip_value)
