"""What a classification task asks of a model's output: a loss, the counts behind its metrics, probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy summed over the rows; the caller divides by the rows of the global batch. Scalar."""
    return functional.cross_entropy(logits, labels, reduction="sum")


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many rows have their largest logit at the label. Scalar int64."""
    return (logits.argmax(dim=1) == labels).sum()


def probabilities(logits: Tensor) -> Tensor:
    """`[batch, classes]` logits to probabilities."""
    return torch.softmax(logits, dim=1)
