"""What is done to a model's blocks before they are trained."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks(model: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """The modules of these class names that have parameters, the inner ones first."""
    wanted = set(names)
    found = [module for module in model.modules() if type(module).__name__ in wanted]
    return [module for module in reversed(found) if any(True for _ in module.parameters())]


def compute_twice(model: nn.Module, names: Iterable[str]) -> None:
    """Keep no activations inside these blocks; the backward pass computes them again (arXiv 1604.06174)."""
    for module in blocks(model, names):
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)
