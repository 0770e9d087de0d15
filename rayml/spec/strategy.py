"""The `train.strategy` section: how the workers share one model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayml.spec.base import Auto, Fits, Spec, Text

Degree = Annotated[int, Field(ge=1)]
Pattern = Annotated[str, Field(min_length=1), Fits("a pattern of module names such as `network.layers.*.q`")]


class LocalStrategy(Spec):
    """One process, without Ray and torch.distributed. A breakpoint stops where it is written."""

    kind: Literal["local"]


class DdpStrategy(Spec):
    """torch DistributedDataParallel: every worker holds the whole model, gradients are averaged (arXiv 2006.15704)."""

    kind: Literal["ddp"]
    bucket_mb: float = Field(default=25.0, gt=0)
    """Megabytes of gradients that are sent at once."""
    static_graph: bool = False
    """Promise that every step uses the same parameters in the same order, which lets torch prepare for it."""
    compress: Literal["none", "fp16", "bf16"] = "none"
    """What gradients are rounded to while they travel."""
    transport: Literal["network", "shared_memory"] | Auto = "auto"
    """What gradients travel by. `shared_memory` is for float32 on the CPUs of one Linux machine, where it saves a
    quarter of a small step. `auto` is shared_memory for up to 4 such workers of launcher processes, if nothing else is
    said of how gradients are sent."""


class FsdpStrategy(Spec):
    """torch `fully_shard` (FSDP2): each worker holds a part of weights, gradients and optimizer state."""

    kind: Literal["fsdp"]
    replicate: Degree = 1
    """Whole copies of the model; each is held in `shard` parts (HSDP). replicate x shard = workers."""
    shard: Degree | Auto = "auto"
    """Parts of one copy. `auto` is workers / replicate."""
    reduce: Literal["fp32", "bf16"] = "fp32"
    """What gradients are added up in."""
    reshard: bool = True
    """Drop the gathered weights after the forward pass and gather them again for the backward pass."""
    offload: bool = False
    """Keep this worker's part in the memory of the host, and step there."""


class DeepSpeedStrategy(Spec):
    """DeepSpeed ZeRO (arXiv 1910.02054). Needs `pip install rayml[deepspeed]`."""

    kind: Literal["deepspeed"]
    zero_stage: Literal[0, 1, 2, 3] | Auto = "auto"
    """What is sharded: 1 optimizer state, 2 and gradients, 3 and weights. `auto` is what `config` says, or 2 without
    one."""
    offload: Literal["none", "cpu", "nvme"] | Auto = "auto"
    """Where optimizer state, and with stage 3 weights, are kept between uses: cpu, the host's memory, where the
    optimizer steps; nvme (stage 3), a disk, from which they come there in parts. `auto` is what `config` says, or
    none."""
    nvme_path: Text | None = None
    """A folder of a local disk of every node, for nvme. Each worker makes one of its own there, and removes it."""
    config: Text | None = None
    """A DeepSpeed JSON file, relative to the job file, taken as it is. Its `"auto"` values are resolved by the plan;
    where the job says nothing it decides, and where the two contradict each other the plan says so."""


class TensorParallelStrategy(Spec):
    """Each linear layer's matrix in parts (Megatron-LM, arXiv 1909.08053)."""

    kind: Literal["tensor_parallel"]
    tensor: Degree | Auto = "auto"
    """Parts of each matrix. tensor x data = workers. `auto` is workers / data."""
    data: Degree = 1
    """Copies of the model, each of which reads other rows."""
    layers: dict[Pattern, Literal["colwise", "rowwise"]] | Auto = "auto"
    """Which linear layers are cut, and along which side. `auto` is what the model proposes."""


class PipelineStrategy(Spec):
    """The layers in consecutive parts, one per worker; micro-batches flow through (GPipe, arXiv 1811.06965).

    The micro-batches are those of `train.accumulation`.
    """

    kind: Literal["pipeline"]
    stages: Degree | Auto = "auto"
    """Parts of the model. stages x data = workers. `auto` is workers / data."""
    data: Degree = 1
    """Copies of the model, each of which reads other rows."""
    schedule: Literal["gpipe", "1f1b"] = "1f1b"
    """gpipe: all forward passes, then all backward passes; 1f1b: in turn, with less memory (arXiv 1806.03377)."""


class ParameterServerStrategy(Spec):
    """Asynchronous: a server makes a step with each gradient as it comes (Li et al., OSDI 2014)."""

    kind: Literal["parameter_server"]
    staleness: int = Field(default=4, ge=0)
    """How many steps a worker may be ahead of the slowest one; there it waits (Ho et al., NIPS 2013). 0 is in step."""


Strategy = Annotated[
    LocalStrategy
    | DdpStrategy
    | FsdpStrategy
    | DeepSpeedStrategy
    | TensorParallelStrategy
    | PipelineStrategy
    | ParameterServerStrategy,
    Field(discriminator="kind"),
]
