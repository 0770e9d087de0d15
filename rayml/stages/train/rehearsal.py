"""The strategies as they are rehearsed without values: themselves, or what stands in for code that needs values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import Optimizer

from rayml.errors import StageError
from rayml.ml.models import Classifier
from rayml.ml.networks import sequential_parts
from rayml.stages.train.rehearsal_deepspeed import RehearsedDeepSpeed
from rayml.stages.train.strategies import cuts
from rayml.stages.train.strategies.base import MicroBatch, Seat
from rayml.stages.train.strategies.eager import Eager
from rayml.stages.train.strategies.fsdp import Fsdp
from rayml.stages.train.strategies.local import Local
from rayml.stages.train.strategies.pipeline import Pipeline
from rayml.stages.train.strategies.relay import Part
from rayml.stages.train.strategies.tensor_parallel import TensorParallel


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


class RehearsedSharedMemory(Eager):
    """What `transport: shared_memory` keeps: this rank's slot, and the sums, in which the gradients lie afterwards."""

    def wrap(self, model: Classifier) -> nn.Module:
        model.to(self.seat.device)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.slots = [torch.empty_like(parameter) for parameter in trained]
        self.sums = {parameter: torch.empty_like(parameter) for parameter in trained}
        return model

    def share_gradients(self) -> None:
        for parameter, total in self.sums.items():
            parameter.grad = total.detach()


def rehearsed_ddp(config: dict[str, Any], seat: Seat) -> Eager:
    return (RehearsedSharedMemory if config["transport"] == "shared_memory" else RehearsedDdp)(config, seat)


def rehearsed_fsdp(config: dict[str, Any], seat: Seat) -> Fsdp:
    """FSDP2 itself. Its mesh reads the values of small tensors, and so it is made before."""
    strategy = Fsdp(config, seat)
    mesh = strategy.make_mesh()
    strategy.make_mesh = lambda: mesh  # type: ignore[method-assign]
    return strategy


class RehearsedTensorParallel(TensorParallel):
    """Itself, with a mesh that was made before: that reads the values of small tensors."""

    def __init__(self, config: dict[str, Any], seat: Seat) -> None:
        super().__init__(config, seat)
        self.made = init_device_mesh(
            seat.device.type, (config["data"], config["tensor"]), mesh_dim_names=("data", "tensor")
        )
        self.parts = self.made["tensor"]

    def wrap(self, model: Classifier) -> nn.Module:
        if self.mesh is None:
            self.mesh = self.made
            self.cut(model, self.parts)
        return model


class RehearsedPipeline(Pipeline):
    """One stage with what passes through it, in the order of the schedule. torch's own schedules wait for messages."""

    def __init__(self, config: dict[str, Any], seat: Seat) -> None:
        super().__init__(config, seat)
        degrees = (config["data"], self.stages)
        self.mesh = init_device_mesh(seat.device.type, degrees, mesh_dim_names=("data", "stages"))
        self.group = self.mesh.get_group("stages")
        self.received: list[Tensor] = []

    def wrap(self, model: Classifier) -> nn.Module:
        self.part = self.take_part(model)
        return self.part

    def take_part(self, model: Classifier) -> Part:
        example = torch.empty_like(self.recipe.example)
        self.cut = cuts.cut(sequential_parts(model), self.stages, example)
        for number, stage in enumerate(self.cut):
            if number != self.stage:
                for module in stage.modules:
                    leave_names(module)
        return Part(self.cut[self.stage].modules, self.precision_context(self.recipe.precision))

    def accumulate_gradients(self, batches: Sequence[MicroBatch]) -> Tensor:
        self.total = torch.zeros((), device=self.seat.device)
        is_first, is_last = self.stage == 0, self.stage == self.stages - 1
        if not self.received and not is_first:
            self.received = [self.message(self.stage - 1, len(batch.labels)) for batch in batches]
        self.returned = [] if is_last else [self.message(self.stage, len(batch.labels)) for batch in batches]
        in_turn = self.config["schedule"] == "1f1b" and len(batches) >= self.stages
        ahead = self.stages - self.stage if in_turn else len(batches)
        under_way: list[tuple[int, Tensor]] = []
        for number, batch in enumerate(batches):
            rows = batch.features if is_first else self.received[number].detach().requires_grad_()
            under_way.append((number, self.part(rows)))
            if len(under_way) == ahead:
                self.go_back(batches, *under_way.pop(0))
        while under_way:
            self.go_back(batches, *under_way.pop(0))
        return self.total

    def go_back(self, batches: Sequence[MicroBatch], number: int, made: Tensor) -> None:
        if self.stage == self.stages - 1:
            self.loss_of(made, batches[number]).backward()  # type: ignore[no-untyped-call]
        else:
            torch.autograd.backward(made, self.returned[number])

    def message(self, stage: int, rows: int) -> Tensor:
        """What a stage makes of a micro-batch, or the gradient that comes back for it."""
        return torch.empty((rows, *self.cut[stage].output), device=self.seat.device)


def leave_names(module: nn.Module) -> None:
    """Of a stage that another rank holds: names and shapes."""
    for each in module.modules():
        for name, parameter in each.named_parameters(recurse=False):
            each.register_parameter(name, nn.Parameter(torch.empty_like(parameter, device="meta")))


class RehearsedParameterServer(Eager):
    """A worker: the server has the optimizer's state."""

    def take_step(self, optimizer: Optimizer) -> None:
        """What comes back takes the place of the weights."""


REHEARSED: dict[str, Callable[[dict[str, Any], Seat], Eager]] = {
    "local": Local,
    "ddp": rehearsed_ddp,
    "fsdp": rehearsed_fsdp,
    "tensor_parallel": RehearsedTensorParallel,
    "pipeline": RehearsedPipeline,
    "deepspeed": RehearsedDeepSpeed,
    "parameter_server": RehearsedParameterServer,
}


def rehearsed_strategy(config: dict[str, Any], seat: Seat) -> Eager:
    """A strategy that steps without values. StageError where there is none of that kind."""
    if config["kind"] not in REHEARSED:
        raise StageError(f"there is no estimate for strategy {config['kind']}", where="train.strategy")
    return REHEARSED[config["kind"]](config, seat)
