"""The validation split, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from rayml.ml import order, tasks
from rayml.stages.train.averaging import refresh_statistics
from rayml.stages.train.collective import sum_over_ranks
from rayml.stages.train.setup import Training

VALIDATION_ROWS = 256
"""Rows of a validation batch at least: without gradients there is memory for more than in training."""


STATISTICS_ROWS = 16_384
"""Rows of the training split on which batch norm's statistics are measured for averaged weights."""


def validate(training: Training) -> tuple[float, float]:
    """Mean loss and accuracy of the weights that would be kept: the averaged ones where the job has them."""
    model, average = training.model, training.average
    training.strategy.settle()
    if average is None or not average.begun:
        return measure(training)
    with torch.no_grad(), average.applied(model):
        if average.needs_statistics(model):
            refresh_statistics(model, first_rows(training))
            training.statistics = {
                name: buffer.detach().clone()
                for name, buffer in model.state_dict().items()
                if name not in average.tensors()
            }
        return measure(training)


def first_rows(training: Training) -> Iterator[Tensor]:
    """Batches of the training split, the same on every rank."""
    train_set, rows = training.train_set, training.config.train["batch_size"]
    for start in range(0, min(len(train_set), STATISTICS_ROWS), rows):
        features, _ = train_set.gather(np.arange(start, min(start + rows, len(train_set))))
        yield torch.from_numpy(features).to(training.seat.device)


@torch.no_grad()
def measure(training: Training) -> tuple[float, float]:
    """Mean loss and accuracy over all rows of the validation split, each rank reading its share.

    Every rank predicts equally often, since a prediction may take all of them.
    """
    strategy, val_set, device = training.strategy, training.val_set, training.seat.device
    training.model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    first, last = order.share(0, len(val_set), strategy.data_rank, strategy.data_size)
    rows = max(training.config.train["batch_size"], VALIDATION_ROWS)
    largest_share = -(-len(val_set) // strategy.data_size)
    for start in range(first, first + largest_share, rows):
        stop = min(start + rows, last)
        features, labels = val_set.gather(np.arange(start, stop) if start < stop else np.zeros(1, dtype=np.int64))
        targets = torch.from_numpy(labels).to(device)
        logits = strategy.predict(torch.from_numpy(features).to(device)).float()
        if strategy.counts and start < stop:
            sums += torch.stack(
                [tasks.loss_sum(logits, targets).double(), tasks.count_correct(logits, targets).double()]
            )
    sum_over_ranks(sums)
    training.model.train()
    loss, correct = (sums / len(val_set)).tolist()
    return loss, correct
