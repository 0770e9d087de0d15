"""The strategies as they are rehearsed without values: themselves, or what stands in for code that needs values."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rayml.errors import StageError
from rayml.ml.models import Classifier
from rayml.stages.train.strategies.base import Seat
from rayml.stages.train.strategies.eager import Eager
from rayml.stages.train.strategies.fsdp import Fsdp
from rayml.stages.train.strategies.local import Local


class RehearsedDdp(Eager):
    """What DistributedDataParallel keeps: gradients lie in buckets that are never given back.

    Its own code cannot be rehearsed, since it reads shapes of other ranks.
    """

    def wrap(self, model: Classifier) -> nn.Module:
        model.to(self.seat.device)
        self.is_last = True
        self.in_bucket: dict[nn.Parameter, Tensor] = {}
        if self.seat.world_size > 1:
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            self.in_bucket = {parameter: torch.empty_like(parameter) for parameter in trained}
            for parameter in trained:
                parameter.register_post_accumulate_grad_hook(self.move_to_bucket)  # type: ignore[no-untyped-call]
        return model

    def synchronize(self, *, last: bool) -> AbstractContextManager[Any]:
        self.is_last = last
        return nullcontext()

    def move_to_bucket(self, parameter: nn.Parameter) -> None:
        """Without `no_sync` a gradient is copied to its bucket; with it, it stays beside the bucket."""
        if self.is_last:
            parameter.grad = self.in_bucket[parameter].detach()


def rehearsed_fsdp(config: dict[str, Any], seat: Seat) -> Fsdp:
    """FSDP2 itself. Its mesh reads the values of small tensors, and so it is made before."""
    strategy = Fsdp(config, seat)
    mesh = strategy.make_mesh()
    strategy.make_mesh = lambda: mesh  # type: ignore[method-assign]
    return strategy


REHEARSED: dict[str, Callable[[dict[str, Any], Seat], Eager]] = {
    "local": Local,
    "ddp": RehearsedDdp,
    "fsdp": rehearsed_fsdp,
}


def rehearsed_strategy(config: dict[str, Any], seat: Seat) -> Eager:
    """A strategy that steps without values. StageError where there is none of that kind."""
    if config["kind"] not in REHEARSED:
        raise StageError(f"there is no estimate for strategy {config['kind']}", where="train.strategy")
    return REHEARSED[config["kind"]](config, seat)
