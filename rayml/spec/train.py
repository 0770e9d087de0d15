"""The `train` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayml.spec.autotune import AutotuneSpec
from rayml.spec.averaging import Average
from rayml.spec.base import Auto, Spec, Text
from rayml.spec.loss import CrossEntropy, Loss
from rayml.spec.optimizer import AdamW, Optimizer
from rayml.spec.profile import ProfileSpec
from rayml.spec.schedule import Constant, Schedule
from rayml.spec.start import Adapter, FreezeSpec, Start
from rayml.spec.strategy import DdpStrategy, Strategy

Metric = Literal["val/accuracy", "val/loss", "train/loss"]


class BestSpec(Spec):
    """Which checkpoint the next step continues with."""

    metric: Metric = "val/accuracy"
    """Measured after every epoch."""
    goal: Literal["max", "min"] | Auto = "auto"
    """`auto` is max for accuracy and min for loss."""


class CheckpointSpec(Spec):
    """When the training state is written down. A checkpoint is also written at the end of every epoch."""

    every_steps: Annotated[int, Field(gt=0)] | Auto = "auto"
    """`auto` is once per epoch."""
    keep: int = Field(default=2, ge=1)
    """How many of the newest checkpoints stay, besides the best."""


class ClipSpec(Spec):
    """Gradients that are too large are made smaller before the step."""

    norm: Annotated[float, Field(gt=0)] | None = None
    """Largest 2-norm of all gradients together (arXiv 1211.5063)."""
    value: Annotated[float, Field(gt=0)] | None = None
    """Largest magnitude of a single element."""


class EarlyStoppingSpec(Spec):
    """Training ends before its last epoch when a metric no longer gets better."""

    metric: Metric = "val/loss"
    """Measured after every epoch."""
    goal: Literal["max", "min"] | Auto = "auto"
    """`auto` is max for accuracy and min for loss."""
    patience: int = Field(default=5, ge=1)
    """Epochs without a better value after which training ends."""
    min_delta: float = Field(default=0.0, ge=0)
    """By how much a value has to be better to count."""


class TrainSpec(Spec):
    """Distributed training."""

    workers: Annotated[int, Field(ge=1)] | Auto = "auto"
    """World size. `auto` is one per GPU, or one per two CPUs (at least one) where there is no GPU."""
    strategy: Strategy = DdpStrategy(kind="ddp")
    """How the workers share the model."""
    launcher: Literal["processes", "ray_train"] | Auto = "auto"
    """Who starts the workers: `ray_train` on all nodes of a Ray cluster; `processes` on this machine, which is up
    sooner. `auto` is processes on one machine."""
    rows: Literal["train", "train_and_val"] = "train"
    """What is trained on. With the validation rows too, what is reported as validation was trained on, and the last
    epoch is kept."""
    epochs: int = Field(default=10, ge=1)
    """How often every row of the training split is seen."""
    batch_size: Annotated[int, Field(gt=0)] | Auto = "auto"
    """Rows of one optimizer step over all workers together (the global batch). `auto` is 64, or what is nearest to it
    and divides into equal micro-batches."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches that a worker reads for one optimizer step. More of them need less memory and more time."""
    optimizer: Optimizer = AdamW(kind="adamw")
    """How a gradient becomes a step."""
    schedule: Schedule = Constant(kind="constant")
    """How the learning rate changes."""
    loss: Loss = CrossEntropy(kind="cross_entropy")
    """What is made small."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """What the network computes in. Weights and optimizer state stay float32. fp16 scales the loss and leaves out the
    steps that overflow."""
    clip: ClipSpec = ClipSpec()
    l1: float = Field(default=0.0, ge=0)
    """Weight of the sum of the parameters' magnitudes, added to the loss."""
    on_nonfinite: Literal["raise", "skip"] = "raise"
    """At a loss or gradient that is not a number: end the step, or leave out this one optimizer step and count it."""
    start: Start | None = None
    """The first weights. Without it they are random."""
    freeze: tuple[FreezeSpec, ...] = ()
    """Parameters that are not trained, or not from the first epoch on."""
    adapter: Adapter | None = None
    """Train small matrices beside the model's own, which stay as they are; merged into them at the end."""
    average: Average | None = None
    """Averaged weights, which are validated, exported and served in place of the last ones."""
    early_stopping: EarlyStoppingSpec | None = None
    """When training ends before its last epoch."""
    blocks: tuple[Text, ...] | Auto = "auto"
    """Class names of the modules that fsdp shards, and activation checkpointing computes again, as one. `auto` is what
    the model proposes."""
    activation_checkpointing: bool = False
    """Keep no activations inside the blocks; compute them again in the backward pass (arXiv 1604.06174)."""
    compile: bool = False
    """Let torch.compile make kernels for this model. The first step waits for it."""
    channels_last: bool = False
    """Keep images as `[batch, height, width, channels]`, which is faster for convolutions on most hardware."""
    fused: bool = True
    """Step with one kernel for all parameters, where torch has it for the optimizer."""
    threads: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Threads that a worker computes with on CPUs. `auto` is the CPUs by the workers."""
    autotune: bool | AutotuneSpec = False
    """Find the faster ones of threads, channels_last, fused, precision and the strategy's transport or bucket_mb before
    the first epoch."""
    deterministic: bool = False
    """The same bits at every run on the same machine, also on a GPU, at some cost in speed."""
    best: BestSpec = BestSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    profile: ProfileSpec | None = None
    """Watch some steps and say where their time goes. Changes nothing of the result."""
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a GPU's memory that a worker may take; beyond it, it fails as if the GPU were full."""
    retries: int = Field(default=2, ge=0)
    """How often the step is started again from its newest checkpoint when a worker dies."""
