"""`parameter_server`: workers send gradients to a server when they have some, and wait for no other (OSDI 2014).

How far they may drift apart is bounded (stale synchronous parallel; Ho et al., NIPS 2013). Which gradient comes first
is not the same at every run, so neither are the losses.
"""

from __future__ import annotations

import secrets
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from rayml.ml.models import Classifier
from rayml.stages.train.collective import from_first_rank
from rayml.stages.train.optimizers import of_trained
from rayml.stages.train.strategies.base import Recipe, Seat, TrainingState
from rayml.stages.train.strategies.eager import Eager
from rayml.stages.train.strategies.server import Server
from rayml.stages.train.strategies.statistics import share_statistics


class ParameterServer(Eager):
    """A worker of the asynchronous mode. It runs where Ray does, since the server is a Ray actor."""

    def __init__(self, config: dict[str, Any], seat: Seat) -> None:
        super().__init__(config, seat)
        self.factor = 1.0
        self.in_step = False
        """Whether this rank holds the weights that all others hold too."""

    def prepare(self, model: Classifier, recipe: Recipe) -> None:
        super().prepare(model, recipe)
        self.server = self.meet_server()
        self.take(self.call("pull"))

    def meet_server(self) -> Any:
        """The server, which the first rank starts."""
        import ray

        name = f"parameter-server-{from_first_rank(secrets.randbits(48), self.seat.device):x}"
        if self.seat.rank == 0:
            trained = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
            weights = {name: parameter.detach().cpu().numpy() for name, parameter in self.model.named_parameters()}
            actor: Any = ray.remote(num_cpus=0)(Server)
            self.owned = actor.options(name=name).remote(
                self.recipe, weights, trained, self.seat.world_size, self.config["staleness"]
            )
            ray.get(self.owned.pull.remote())
        dist.barrier()
        return ray.get_actor(name)

    def call(self, method: str, *arguments: Any) -> Any:
        """What the server answers."""
        import ray

        return ray.get(getattr(self.server, method).remote(*arguments))

    def take(self, weights: dict[str, Any]) -> None:
        """Go on with these weights."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(torch.from_numpy(weights[name].copy()))

    def set_lr(self, factor: float) -> None:
        self.factor = factor

    def take_step(self, optimizer: Optimizer) -> None:
        gradients = {
            name: parameter.grad.cpu().numpy()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        self.take(self.call("step", self.seat.rank, gradients, self.factor))
        self.in_step = False

    def settle(self) -> None:
        """Wait until every worker has made its steps, and take the weights that this led to."""
        if self.in_step:
            return
        dist.barrier()
        self.take(self.call("pull"))
        share_statistics(self.model)
        dist.barrier()
        self.in_step = True

    def state(self) -> TrainingState:
        self.settle()
        kept = super().state()
        kept.optimizer, furthest = self.call("state")
        kept.plain["furthest_ahead"] = furthest
        return kept

    def load(self, state: TrainingState) -> None:
        assert self.optimizer is not None, "prepare comes first"
        self.model.load_state_dict(state.weights)
        if self.seat.rank == 0:
            weights = {name: parameter.detach().cpu().numpy() for name, parameter in self.model.named_parameters()}
            self.call("load", weights, of_trained(state.optimizer, self.optimizer))
        dist.barrier()
        self.in_step = False
        self.settle()
