"""Update rules that torch does not have: LAMB, LARS and Lion. Why not from a library: docs/adr/0012.

Each works on sharded parameters too: all but the norms is elementwise. The state of a parameter holds tensors only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rayml.stages.train.placed import norms

Groups = Iterable[dict[str, Any]]


class Rule(Optimizer):
    """An optimizer by one function over the parameters of a group that have a gradient."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every group. The groups of `build_optimizer` hold tensors of one kind."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self.update(group, parameters, [parameter.grad for parameter in parameters])
        return loss

    def update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        raise NotImplementedError

    def slots(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        """A tensor of each parameter's state, 0 at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]

    def steps(self, parameters: list[Tensor]) -> list[float]:
        """How many steps each parameter has taken, this one included. Kept on the CPU: reading it waits for nothing."""
        for parameter in parameters:
            self.state[parameter].setdefault("step", torch.zeros(()))
            self.state[parameter]["step"] += 1
        return [self.state[parameter]["step"].item() for parameter in parameters]


class Lion(Rule):
    """Algorithm 2 of arXiv 2302.06675."""

    def __init__(self, groups: Groups, lr: float, weight_decay: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "betas": betas})

    def update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        lr, (in_step, decay) = group["lr"], group["betas"]
        momentum = self.slots(parameters, "exp_avg")
        directions = torch._foreach_lerp(momentum, gradients, 1 - in_step)
        torch._foreach_sign_(directions)
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-lr)
        torch._foreach_lerp_(momentum, gradients, 1 - decay)


class Lamb(Rule):
    """Algorithm 2 of arXiv 1904.00962, with the norm itself as its function phi."""

    def __init__(self, groups: Groups, lr: float, weight_decay: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps, "exempt": False})

    def update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        means, squares = self.slots(parameters, "exp_avg"), self.slots(parameters, "exp_avg_sq")
        steps = self.steps(parameters)
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)

        # m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps), with both corrections below the line: one pass less.
        corrections = [1 - beta1**step for step in steps]
        roots = torch._foreach_sqrt(squares)
        torch._foreach_mul_(roots, [c / math.sqrt(1 - beta2**step) for c, step in zip(corrections, steps, strict=True)])
        torch._foreach_add_(roots, [c * group["eps"] for c in corrections])
        updates = torch._foreach_div(means, roots)
        torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
        if not group["exempt"]:
            weights, sizes = norms([*parameters, *updates]).chunk(2)
            ratios = torch.where((weights > 0) & (sizes > 0), weights / sizes, 1.0)
            torch._foreach_mul_(updates, list(ratios.unbind()))
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])


class Lars(Rule):
    """Algorithm 1 of arXiv 1708.03888: the learning rate is part of the momentum."""

    def __init__(self, groups: Groups, lr: float, weight_decay: float, momentum: float, trust: float) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust, "exempt": False}
        super().__init__(groups, defaults)

    def update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        decay = group["weight_decay"]
        momentum = self.slots(parameters, "momentum_buffer")
        updates = torch._foreach_add(gradients, parameters, alpha=decay)
        if not group["exempt"]:
            weights, sizes = norms([*parameters, *gradients]).chunk(2)
            ratios = group["trust"] * weights / (sizes + decay * weights)
            ratios = torch.where((weights > 0) & (sizes > 0), ratios, 1.0)
            torch._foreach_mul_(updates, list(ratios.unbind()))
        torch._foreach_mul_(momentum, group["momentum"])
        torch._foreach_add_(momentum, updates, alpha=group["lr"])
        torch._foreach_sub_(parameters, momentum)
