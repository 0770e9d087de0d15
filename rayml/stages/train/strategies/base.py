"""The protocol of a strategy, and the values that pass through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rayml.ml.models import Classifier
from rayml.stages.train.distill import Distillation

LossSum = Callable[[Tensor, Tensor], Tensor]
"""`[batch, classes]` logits and `[batch] int64` labels to the loss summed over the rows, a scalar."""

NamedParameters = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Seat:
    """Where a rank sits. A process that trains alone, without torch.distributed, is rank 0 of 1."""

    rank: int
    world_size: int
    device: torch.device


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the network at once; an optimizer step takes one or several."""

    features: Tensor
    """`[rows, *shape]` raw records on the device."""
    labels: Tensor
    """`[rows] int64` on the device."""
    weight: float
    """1 / rows of the global batch: the losses of all micro-batches of all ranks times this add up to the mean. 0 where
    the rank has no row of its own and takes part with one that does not count."""
    padding: int = 0
    """Rows at the end that go through the network and not into the loss: batch norm cannot take a single row."""
    soft: Tensor | None = None
    """`[rows, classes] float32` logits of the teacher on the device; None where there is none."""

    def counted(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and labels of the rows that go into the loss. There may be more logits than labels."""
        rows = len(self.labels) - self.padding
        return logits[:rows], self.labels[:rows]

    def loss(self, recipe: Recipe, logits: Tensor) -> Tensor:
        """The loss summed over the rows that count, a scalar: on the labels, and on the teacher where there is one."""
        logits, labels = self.counted(logits)
        if recipe.distill is None:
            return recipe.loss(logits, labels)
        return recipe.distill(recipe.loss, logits, labels, None if self.soft is None else self.soft[: len(labels)])


@dataclass(frozen=True)
class Recipe:
    """What every strategy has to honour, whatever it shares out."""

    loss: LossSum
    make_optimizer: Callable[[NamedParameters], Optimizer]
    example: Tensor
    """`[1, *shape]` zeros, of the dtype and shape of a raw record."""
    blocks: tuple[str, ...] = ()
    """Class names of the modules that are treated as one."""
    accumulation: int = 1
    """Micro-batches of an optimizer step on each rank."""
    precision: str = "fp32"
    """fp32, bf16 or fp16: what the network computes in. Weights and optimizer state stay float32."""
    clip_norm: float | None = None
    """Largest 2-norm of all gradients together."""
    clip_value: float | None = None
    """Largest magnitude of a gradient's element."""
    l1: float = 0.0
    """Weight of the sum of the parameters' magnitudes in the loss."""
    distill: Distillation | None = None
    """How a teacher's answers come into the loss."""
    on_nonfinite: str = "raise"
    """raise: the loop stops at a loss that is not a number; skip: a step with such gradients is left out."""


@dataclass
class TrainingState:
    """All that a strategy has to keep, by the names of the model as one process would hold it.

    So a state that one world size or strategy saved can be loaded by another.
    """

    weights: dict[str, Tensor]
    """Parameters and buffers."""
    optimizer: dict[str, Tensor]
    """`<parameter>.<slot>` to the optimizer's tensors."""
    plain: dict[str, Any] = field(default_factory=dict)
    """JSON values: the loss scale, steps left out."""


class Strategy(Protocol):
    """One way to share the work. All ranks call the same methods in the same order."""

    data_rank: int
    """Which share of each micro-batch this rank reads. Ranks that hold parts of one replica read the same rows."""
    data_size: int
    """How many shares there are."""
    counts: bool
    """Whether this rank's rows and losses count: true for one rank of each replica."""
    skipped: int
    """Optimizer steps that were left out, for gradients that were not finite."""
    sharded: bool
    """Whether every rank writes what its `state()` holds: parts of tensors (DTensor), or tensors of its own."""
    notes: Sequence[str]
    """What `prepare` decided, for the person who waits."""

    def prepare(self, model: Classifier, recipe: Recipe) -> None:
        """Place the model, share it out, and build the optimizer over what this rank holds.

        Also called when other parameters than before are trained: what was loaded stays.
        """

    def step(self, batches: Sequence[MicroBatch]) -> Tensor:
        """One optimizer step; the loss summed over this rank's rows that count, still on the device."""

    def settle(self) -> None:
        """Before a validation: wait for steps that are under way, and let all replicas hold the same buffers."""

    def predict(self, features: Tensor) -> Tensor:
        """`[rows, classes]` logits in evaluation mode. Every rank calls it equally often."""

    def set_lr(self, factor: float) -> None:
        """Let the next steps take this share of each group's learning rate."""

    def state(self) -> TrainingState:
        """What a checkpoint keeps. Every rank calls it; the first one's tensors are written unless `sharded`."""

    def load(self, state: TrainingState) -> None:
        """Go on from a state that any strategy and world size saved.

        Tensors are whole and on the CPU, or in parts as those of this strategy's own `state()`.
        """
