"""`pipeline`: the layers in consecutive stages, one per rank; micro-batches flow through (GPipe, arXiv 1811.06965).

torch.distributed.pipelining runs the schedule. What it sends has one shape, so a micro-batch of a short last batch is
filled up with rows of its own, which the loss leaves out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.schedules import PipelineScheduleSingle
from torch.optim import SGD, Optimizer

from rayml.errors import StageError
from rayml.ml.models import Classifier
from rayml.ml.networks import sequential_parts
from rayml.stages.train.placed import norm_of
from rayml.stages.train.strategies import cuts
from rayml.stages.train.strategies.base import MicroBatch, Seat, TrainingState
from rayml.stages.train.strategies.eager import Eager
from rayml.stages.train.strategies.relay import Part, example_for, filled_up, rank_of, relay
from rayml.stages.train.strategies.replicas import share_buffers, sum_gradients
from rayml.stages.train.strategies.statistics import has_running_statistics
from rayml.stages.train.strategies.streams import generator_of, own_seed


class Pipeline(Eager):
    """The last stage is on the first rank of each copy: it knows the loss, and that rank tells how training goes."""

    sharded = True

    def __init__(self, config: dict[str, Any], seat: Seat) -> None:
        super().__init__(config, seat)
        self.stages = config["stages"]
        self.data_rank, place = divmod(seat.rank, self.stages)
        self.data_size = config["data"]
        self.stage = rank_of(place, self.stages)
        self.counts = self.stage == self.stages - 1
        self.mesh: DeviceMesh | None = None

    def wrap(self, model: Classifier) -> nn.Module:
        if self.mesh is None:
            degrees = (self.config["data"], self.stages)
            self.mesh = init_device_mesh(self.seat.device.type, degrees, mesh_dim_names=("data", "stages"))
            self.group = self.mesh.get_group("stages")
            self.part = self.take_part(model)
        self.rows = 0
        return self.part

    def take_part(self, model: Classifier) -> Part:
        """Keep one stage's modules; of the others only names and shapes."""
        self.cut = cuts.cut(sequential_parts(model), self.stages, self.recipe.example)
        self.notes = [cuts.describe(self.cut)]
        for number, stage in enumerate(self.cut):
            for module in stage.modules:
                module.to(self.seat.device if number == self.stage else "meta")
        return Part(self.cut[self.stage].modules, self.precision_context(self.recipe.precision))

    def named_parameters(self, model: Classifier) -> list[tuple[str, nn.Parameter]]:
        named = model.named_parameters()
        return [(name, nn.Parameter(each.detach(), False) if each.is_meta else each) for name, each in named]

    def make_optimizer(self, named: list[tuple[str, nn.Parameter]]) -> Optimizer:
        return super().make_optimizer(named) if self.trained else idle_optimizer()

    def accumulate_gradients(self, batches: Sequence[MicroBatch]) -> Tensor:
        rows = max(len(batch.labels) for batch in batches)
        if rows > self.rows:
            self.rows, self.schedule = rows, self.make_schedule(rows)
        self.total = torch.zeros((), device=self.seat.device)
        # Layers in different stages must not drop the same units.
        generator = generator_of(self.seat.device)
        generator.manual_seed(own_seed(generator.initial_seed(), 0, self.stage))
        inputs = [(filled_up(batch.features, self.rows),) if self.stage == 0 else () for batch in batches]
        self.schedule.step(arg_mbs=inputs, target_mbs=list(batches), return_outputs=False)
        return self.total

    def make_schedule(self, rows: int) -> PipelineScheduleSingle:
        """Who sends what when, for micro-batches of so many rows."""
        stage = PipelineStage(
            self.part,
            self.stage,
            self.stages,
            self.seat.device,
            input_args=example_for(self.stage, self.cut, self.recipe.example, rows),
            output_args=example_for(self.stage + 1, self.cut, self.recipe.example, rows),
            group=self.group,
        )
        stage.stage_index_to_group_rank = {number: rank_of(number, self.stages) for number in range(self.stages)}
        # With fewer micro-batches than stages 1F1B would be GPipe, and torch asks for its name.
        in_turn = self.config["schedule"] == "1f1b" and self.recipe.accumulation >= self.stages
        kind = Schedule1F1B if in_turn else ScheduleGPipe
        return kind(stage, self.recipe.accumulation, loss_fn=self.loss_of, scale_grads=False)

    def loss_of(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """The loss of a micro-batch without the rows that fill it up. Called on the last stage."""
        loss = batch.loss(self.recipe, logits)
        if batch.weight:
            self.total += loss.detach()
        return loss * (batch.weight * self.scale.value)

    def share_gradients(self) -> None:
        assert self.mesh is not None, "prepare comes first"
        if self.data_size > 1:
            sum_gradients(self.trained, self.mesh.get_group("data"))

    def gradient_norm(self, gradients: list[Tensor]) -> Tensor:
        own = norm_of(gradients) if gradients else torch.zeros((), device=self.seat.device)
        norms = [torch.empty_like(own) for _ in range(self.stages)]
        dist.all_gather(norms, own, group=self.group)
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return norm

    def settle(self) -> None:
        assert self.mesh is not None, "prepare comes first"
        if self.data_size > 1 and has_running_statistics(self.part):
            share_buffers(self.part, self.mesh.get_group("data"))

    def predict(self, features: Tensor) -> Tensor:
        shapes = [stage.output for stage in self.cut]
        return relay(self.part, features, self.rows or len(features), self.stage, shapes, self.group)

    def state(self) -> TrainingState:
        self.settle()
        kept = super().state()
        return replace(kept, weights={name: each for name, each in kept.weights.items() if not each.is_meta})

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        names = self.model.state_dict().keys()
        if weights.keys() != names:
            odd = sorted(weights.keys() ^ names)[0]
            raise StageError(f"the checkpoint is of another model: {odd!r} is not in both", where="train")
        own = {name for name, each in self.model.state_dict().items() if not each.is_meta}
        self.model.load_state_dict({name: each for name, each in weights.items() if name in own}, strict=False)


def idle_optimizer() -> Optimizer:
    """For a stage that trains nothing."""
    return SGD([{"params": [nn.Parameter(torch.empty(0))], "names": ["nothing"], "base_lr": 0.0}], lr=0.0)
