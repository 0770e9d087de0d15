"""Weights that are a mean over the training: EMA and SWA, by the arithmetic of torch.optim.swa_utils.

torch's AveragedModel copies the whole module, which a sharded model does not survive. Here the means are kept beside
the model, by name, and put into it while it is validated.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn, update_bn

from rayml.errors import StageError
from rayml.stages.train.placed import by_kind, laid_out_like

HALF = (torch.float16, torch.bfloat16)
"""The mean of such weights is kept in float32: a change of a thousandth would be rounded away."""


def build_average(config: dict[str, Any] | None, steps_per_epoch: int, epochs: int) -> Average | None:
    """The mean of an `average` section; None without one. StageError where it would begin after the training's end."""
    return None if config is None else Average(config, steps_per_epoch, epochs)


class Average:
    """The mean of a model's parameters, frozen ones too.

    Its buffers are not averaged: an EMA is close to the present weights, whose statistics serve it, and SWA measures
    them again (`refresh_statistics`).

    Args:
        config: an `average` section.
        steps_per_epoch: optimizer steps of one epoch.
        epochs: of the whole training.
    """

    def __init__(self, config: dict[str, Any], steps_per_epoch: int, epochs: int) -> None:
        self._config, self._steps_per_epoch = config, steps_per_epoch
        self._first = first_step(config, steps_per_epoch * epochs)
        self._count = 0
        self._means: dict[str, Tensor] = {}
        self._model: nn.Module | None = None
        self._live: dict[str, Tensor] = {}
        self._calls: list[tuple[list[Tensor], list[Tensor]]] = []

    @property
    def begun(self) -> bool:
        """Whether there is a mean already; without one `applied` changes nothing."""
        return self._count > 0

    def update(self, model: nn.Module, step: int) -> None:
        """Take the present weights into the mean if it is their turn. Call it after every optimizer step.

        Args:
            step: optimizer steps taken so far, the last one too.
        """
        if not self._takes(step):
            return
        self._meet(model)
        if self._means:
            average = self._function()
            for means, live in self._calls:
                average(means, [each.to(means[0].dtype) for each in live], self._count)
        else:
            self._keep({name: mean_of_one(live) for name, live in self._live.items()})
        self._count += 1

    def tensors(self) -> dict[str, Tensor]:
        """Parameter name to mean; empty before the first. The tensors are its own, not copies.

        Parameters that another rank holds (on the meta device) are left out.
        """
        return {name: mean for name, mean in self._means.items() if not mean.is_meta}

    def plain(self) -> dict[str, int]:
        """What else a checkpoint has to hold, as JSON."""
        return {"count": self._count}

    def load(self, tensors: Mapping[str, Tensor], plain: Mapping[str, int]) -> None:
        """Go on from what `tensors` and `plain` gave. Whole tensors for sharded parameters have to be on every rank."""
        self._model, self._means, self._count = None, dict(tensors), plain["count"]

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with the mean for weights; on the way out its own weights and buffers are back to the last bit."""
        if not self.begun:
            yield
            return
        self._meet(model)
        own = [*self._live.values(), *(buffer.detach() for buffer in model.buffers())]
        kept = [tensor.clone() for tensor in own]
        gather_anew(model)
        for name, live in self._live.items():
            live.copy_(self._means[name])
        try:
            yield
        finally:
            gather_anew(model)
            for tensor, copy in zip(own, kept, strict=True):
                tensor.copy_(copy)

    def needs_statistics(self, model: nn.Module) -> bool:
        """Whether the model with the mean applied needs `refresh_statistics` before it can be used."""
        return self._config["kind"] == "swa" and self.begun and bool(batch_norms(model))

    def _takes(self, step: int) -> bool:
        if step < self._first:
            return False
        if self._config["kind"] == "ema":
            return True
        every = self._config["every_steps"]
        return (step - self._first) % every == 0 if every else step % self._steps_per_epoch == 0

    def _meet(self, model: nn.Module) -> None:
        """Note the model's parameters, once: while FSDP2 has them gathered, the model names other tensors."""
        if self._model is model:
            return
        gather_anew(model)
        self._model, self._live = model, {name: each.detach() for name, each in model.named_parameters()}
        if self._means and (odd := sorted(self._means.keys() ^ self._live.keys())):
            raise StageError(f"the averaged weights are of another model: {odd[0]!r} is not in both", where="train")
        self._keep({name: laid_out_like(self._live[name], mean) for name, mean in self._means.items()})

    def _keep(self, means: dict[str, Tensor]) -> None:
        """Hold the means, and the lists of those that one call can take."""
        self._means = means
        pairs = [(mean, self._live[name]) for name, mean in means.items()]
        self._calls = [
            ([pairs[position][0] for position in positions], [pairs[position][1] for position in positions])
            for positions in by_kind([live for _, live in pairs])
        ]

    def _function(self) -> Callable[..., None]:
        if self._config["kind"] == "swa":
            function: Callable[..., None] = get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]
        else:
            most = (1 + self._count) / (10 + self._count) if self._config["ramp"] else 1.0
            function = get_ema_multi_avg_fn(min(self._config["decay"], most))  # type: ignore[no-untyped-call]
        return function


def first_step(config: dict[str, Any], steps: int) -> int:
    """Optimizer steps taken when the first weights are averaged."""
    if config["kind"] == "swa":
        return max(math.ceil(float(config["start"]) * steps), 1)
    if config["start_step"] > steps:
        raise StageError(
            f"the average begins after {config['start_step']} optimizer steps, and the whole training has {steps}",
            where="train.average.start_step",
            hint="write a smaller number, or more epochs",
        )
    return max(int(config["start_step"]), 1)


def mean_of_one(live: Tensor) -> Tensor:
    return live.float() if live.dtype in HALF else live.clone()


def gather_anew(model: nn.Module) -> None:
    """Let FSDP2 drop the weights that it has gathered: it would go on with them whatever their shards become."""
    if "torch.distributed.fsdp" not in sys.modules:
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The layers that measure statistics while they train."""
    return [module for module in model.modules() if getattr(module, "track_running_stats", False)]


def refresh_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure batch norm's running statistics anew for the present weights, as the mean over the batches.

    Args:
        batches: what the model's forward takes. Every rank has to hand in the same ones, or their statistics differ.
    """
    update_bn(batches, model)
