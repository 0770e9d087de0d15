"""The `train` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayml.spec.base import Auto, Spec


class DdpStrategy(Spec):
    """torch DistributedDataParallel: every worker holds the whole model, gradients are averaged."""

    kind: Literal["ddp"]


class AdamW(Spec):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

    kind: Literal["adamw"]
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled: each step also shrinks the weights by lr times this."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""


class Sgd(Spec):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    lr: float = Field(default=0.1, gt=0)
    """Learning rate."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the last step that is kept in the next."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty, added to the gradient."""


Optimizer = Annotated[AdamW | Sgd, Field(discriminator="kind")]


class BestSpec(Spec):
    """Which checkpoint the next step continues with."""

    metric: Literal["val/accuracy", "val/loss"] = "val/accuracy"
    """Measured after every epoch."""
    goal: Literal["max", "min"] | Auto = "auto"
    """`auto` is max for accuracy and min for loss."""


class CheckpointSpec(Spec):
    """When the training state is written down. A checkpoint is also written at the end of every epoch."""

    every_steps: Annotated[int, Field(gt=0)] | Auto = "auto"
    """`auto` is once per epoch."""
    keep: int = Field(default=2, ge=1)
    """How many of the newest checkpoints stay, besides the best."""


class TrainSpec(Spec):
    """Distributed training by Ray Train."""

    workers: Annotated[int, Field(ge=1)] | Auto = "auto"
    """World size. `auto` is one per GPU, or one per two CPUs (at least one) where there is no GPU."""
    strategy: DdpStrategy = DdpStrategy(kind="ddp")
    """How the workers share the model."""
    epochs: int = Field(default=10, ge=1)
    """How often every row of the training split is seen."""
    batch_size: Annotated[int, Field(gt=0)] | Auto = "auto"
    """Rows of one optimizer step over all workers together (the global batch). `auto` is 64."""
    optimizer: Optimizer = AdamW(kind="adamw")
    """How a gradient becomes a step."""
    best: BestSpec = BestSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    retries: int = Field(default=2, ge=0)
    """How often the step is started again from its newest checkpoint when a worker dies."""
