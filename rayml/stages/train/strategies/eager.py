"""What the strategies share in which autograd is driven from here: forward, backward, clip, step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rayml.ml.models import Classifier
from rayml.stages.train.averaging import gather_anew
from rayml.stages.train.optimizers import load_named_state, named_state, of_trained
from rayml.stages.train.placed import norm_of, own_part, shrink_to_norm
from rayml.stages.train.schedules import set_lr
from rayml.stages.train.strategies.base import MicroBatch, Recipe, Seat, TrainingState
from rayml.stages.train.strategies.elements import treat_elements
from rayml.stages.train.strategies.loss_scale import LossScale
from rayml.stages.train.strategies.statistics import share_statistics

COMPUTED_IN = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Eager:
    """One process with the whole model. Strategies that share it out override `wrap` and what follows it."""

    counts = True
    sharded = False
    notes: Sequence[str] = ()
    gradients_are_means = True
    """Whether the gradients that `backward` leaves were averaged over the shares of the batch."""

    def __init__(self, config: dict[str, Any], seat: Seat) -> None:
        self.config, self.seat = config, seat
        self.data_rank, self.data_size = seat.rank, seat.world_size
        self.optimizer: Optimizer | None = None
        self.scale = LossScale(enabled=False)
        self.skipped = 0

    def prepare(self, model: Classifier, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        gather_anew(model)
        self.forward = self.wrap(model)
        named = self.named_parameters(model)
        self.trained = [parameter for _, parameter in named if parameter.requires_grad]
        kept = {} if self.optimizer is None else named_state(self.optimizer)
        self.optimizer = self.make_optimizer(named)
        load_named_state(self.optimizer, of_trained(kept, self.optimizer))
        if recipe.precision == "fp16" and not self.scale.enabled:
            self.scale = LossScale(enabled=True)
        self.autocast = self.precision_context(recipe.precision)
        self.checks_norm = recipe.clip_norm is not None or recipe.precision == "fp16" or recipe.on_nonfinite == "skip"

    def wrap(self, model: Classifier) -> nn.Module:
        """The module that is called in training."""
        return model.to(self.seat.device)

    def named_parameters(self, model: Classifier) -> list[tuple[str, nn.Parameter]]:
        """All of the model's; those that this rank does not hold as frozen ones."""
        return list(model.named_parameters())

    def make_optimizer(self, named: list[tuple[str, nn.Parameter]]) -> Optimizer:
        return self.recipe.make_optimizer(named)

    def precision_context(self, precision: str) -> AbstractContextManager[Any]:
        """Entered around each forward pass."""
        dtype = COMPUTED_IN[precision]
        return nullcontext() if dtype is None else torch.autocast(self.seat.device.type, dtype, cache_enabled=False)

    def step(self, batches: Sequence[MicroBatch]) -> Tensor:
        assert self.optimizer is not None, "prepare comes first"
        self.optimizer.zero_grad(set_to_none=True)
        total = self.accumulate_gradients(batches)
        self.share_gradients()
        self.update(self.optimizer)
        return total.nan_to_num(0.0, 0.0, 0.0) if self.recipe.on_nonfinite == "skip" else total

    def accumulate_gradients(self, batches: Sequence[MicroBatch]) -> Tensor:
        """Forward and backward passes; the loss summed over this rank's rows that count."""
        mean = (self.data_size if self.gradients_are_means else 1) * self.scale.value
        total: Tensor | None = None
        for left, batch in zip(range(len(batches) - 1, -1, -1), batches, strict=True):
            with self.synchronize(last=left == 0):
                with self.autocast:
                    logits = self.forward(batch.features)
                loss = batch.loss(self.recipe, logits.float())
                (loss * (batch.weight * mean)).backward()  # type: ignore[no-untyped-call]
            if batch.weight and self.counts:
                total = loss.detach() if total is None else total + loss.detach()
        return torch.zeros((), device=self.seat.device) if total is None else total

    def synchronize(self, *, last: bool) -> AbstractContextManager[Any]:
        """Entered around the forward and backward pass of each micro-batch."""
        return nullcontext()

    def share_gradients(self) -> None:
        """Called once per step, when every micro-batch has had its backward pass."""

    def update(self, optimizer: Optimizer) -> None:
        """The optimizer's step, with what the recipe does to the gradients before it."""
        recipe = self.recipe
        held = [parameter for parameter in self.trained if parameter.grad is not None]
        # What is done to each element alone is done to the part that this rank holds.
        gradients = [own_part(parameter.grad) for parameter in held if parameter.grad is not None]
        treat_elements(gradients, held, recipe, self.scale.value)
        if self.checks_norm:
            norm = self.gradient_norm([parameter.grad for parameter in held if parameter.grad is not None])
            finite = bool(torch.isfinite(norm))
            self.scale.update(finite)
            if not finite and (recipe.precision == "fp16" or recipe.on_nonfinite == "skip"):
                self.skipped += 1
                return
            if recipe.clip_norm is not None:
                shrink_to_norm(gradients, recipe.clip_norm, norm)
        self.take_step(optimizer)

    def take_step(self, optimizer: Optimizer) -> None:
        """Let the gradients change the weights."""
        optimizer.step()

    def gradient_norm(self, gradients: list[Tensor]) -> Tensor:
        """2-norm of all gradients of the whole model, the same on every rank."""
        return norm_of(gradients)

    def settle(self) -> None:
        share_statistics(self.model)

    def predict(self, features: Tensor) -> Tensor:
        logits: Tensor = self.model(features)
        return logits

    def set_lr(self, factor: float) -> None:
        assert self.optimizer is not None, "prepare comes first"
        set_lr(self.optimizer, factor)

    def state(self) -> TrainingState:
        assert self.optimizer is not None, "prepare comes first"
        gather_anew(self.model)
        return TrainingState(
            weights=dict(self.model.state_dict()),
            optimizer=named_state(self.optimizer),
            plain={"loss_scale": self.scale.state(), "skipped": self.skipped},
        )

    def load(self, state: TrainingState) -> None:
        assert self.optimizer is not None, "prepare comes first"
        self.load_weights(state.weights)
        load_named_state(self.optimizer, of_trained(state.optimizer, self.optimizer))
        self.scale.load(state.plain.get("loss_scale", {}))
        self.skipped = state.plain.get("skipped", 0)

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Put whole tensors of all parameters and buffers into the model."""
        self.model.load_state_dict(weights)
