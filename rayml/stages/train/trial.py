"""Steps that leave nothing behind: a training of its own, for what is measured before the real one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayml.ml import order
from rayml.ml.freezing import apply_freeze, keep_frozen_statistics
from rayml.stages.train.loop import batches, read, step_seed
from rayml.stages.train.setup import assemble
from rayml.stages.train.state import LoopConfig, LoopState
from rayml.stages.train.strategies.base import MicroBatch, Seat


class Trial:
    """A model, a strategy and an optimizer that nobody keeps. Every rank makes one and steps equally often.

    Args:
        weights: whether to begin with `train.start`; what is only timed need not.
    """

    def __init__(self, config: LoopConfig, seat: Seat, *, weights: bool = False) -> None:
        self.config = config if weights else replace(config, start=None)
        self.training = assemble(self.config, seat, ignore)
        apply_freeze(self.training.model, config.train["freeze"], 0)
        self.training.strategy.prepare(self.training.model, self.training.recipe)
        self.training.model.train()
        keep_frozen_statistics(self.training.model)
        self.device = seat.device
        self.state = LoopState()
        self.rows = self.read_rows()

    def step(self) -> Tensor:
        """What the loop does at one step; the loss summed over this rank's rows, on the device."""
        training, state = self.training, self.state
        training.strategy.set_lr(training.schedule.factor(state.step))
        loss = self.step_on(next(self.rows))
        if training.average is not None:
            training.average.update(training.model, state.step)
        return loss

    def step_on(self, found: list[MicroBatch]) -> Tensor:
        """One step on these rows."""
        strategy = self.training.strategy
        seed = step_seed(self.config.train["seed"], self.state.step, strategy.data_rank)
        self.training.generator.manual_seed(seed)
        loss = strategy.step(found)
        self.state.step += 1
        return loss

    def timed_step(self) -> tuple[float, Tensor]:
        """Seconds of a step on this rank, and its loss."""
        started = time.perf_counter()
        loss = self.step()
        synchronize(self.device)
        return time.perf_counter() - started, loss

    def read_rows(self) -> Iterator[list[MicroBatch]]:
        """The micro-batches of every step in the order of a training, epoch after epoch."""
        rows, train = len(self.training.train_set), self.config.train
        while True:
            epoch_order = order.EpochOrder(rows, train["seed"], self.state.epoch)
            for start, stop in batches(rows, train["batch_size"], 0):
                yield read(self.training, self.state, epoch_order, start, stop)
            self.state.epoch += 1

    def micro_batch(self, rows: int) -> MicroBatch:
        """The first rows of the split as one micro-batch; those of a small split come more than once."""
        features, labels = self.training.train_set.gather(np.arange(rows) % len(self.training.train_set))
        return MicroBatch(
            features=torch.from_numpy(features).to(self.device),
            labels=torch.from_numpy(labels).to(self.device),
            weight=1 / (rows * self.training.strategy.data_size * self.training.recipe.accumulation),
        )


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ignore(kind: str, **fields: Any) -> None:
    """Nobody listens to a trial."""
