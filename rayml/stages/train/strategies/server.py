"""The server of the `parameter_server` strategy: a Ray actor that holds the weights and makes the steps."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rayml.stages.train.optimizers import load_named_state, named_state
from rayml.stages.train.schedules import set_lr
from rayml.stages.train.strategies.base import Recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.float32]]


class Server:
    """Takes gradients as they come and gives back weights; holds up a worker that is too far ahead."""

    def __init__(self, recipe: Recipe, weights: Arrays, trained: list[str], workers: int, staleness: int) -> None:
        self.weights = {name: nn.Parameter(torch.tensor(value), name in trained) for name, value in weights.items()}
        self.optimizer = recipe.make_optimizer(self.weights.items())
        self.steps = [0] * workers
        self.staleness = staleness
        self.furthest = 0
        self.moved = asyncio.Condition()

    async def step(self, worker: int, gradients: Arrays, factor: float) -> Arrays:
        """One step with a worker's gradients. Returns once that worker may go on, with the weights of that moment."""
        for name, gradient in gradients.items():
            self.weights[name].grad = torch.tensor(gradient)
        set_lr(self.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps[worker] += 1
        async with self.moved:
            self.moved.notify_all()
            await self.moved.wait_for(lambda: self.steps[worker] - min(self.steps) <= self.staleness)
        self.furthest = max(self.furthest, self.steps[worker] - min(self.steps))
        return self.pull()

    def pull(self) -> Arrays:
        """The weights as they are now."""
        return {name: parameter.detach().numpy() for name, parameter in self.weights.items()}

    def state(self) -> tuple[dict[str, Tensor], int]:
        """The optimizer's slots by name, and how many steps a worker that went on was ahead at most."""
        return named_state(self.optimizer), self.furthest

    def load(self, weights: Arrays, slots: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        with torch.no_grad():
            for name, value in weights.items():
                self.weights[name].copy_(torch.tensor(value))
        load_named_state(self.optimizer, slots)
