"""`fsdp`: weights, gradients and optimizer state in parts, one per rank (FSDP2; ZeRO stage 3, arXiv 1910.02054)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from rayml.ml.models import Classifier
from rayml.stages.train.matching import MATCHING
from rayml.stages.train.modules import blocks
from rayml.stages.train.placed import laid_out_like_all
from rayml.stages.train.strategies.base import Seat
from rayml.stages.train.strategies.eager import COMPUTED_IN, Eager

REDUCED_IN = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Fsdp(Eager):
    """torch's `fully_shard`; with `replicate` > 1 hybrid: whole replicas, each in `shard` parts (HSDP)."""

    sharded = True

    def __init__(self, config: dict[str, Any], seat: Seat) -> None:
        super().__init__(config, seat)
        self.mesh: DeviceMesh | None = None

    def wrap(self, model: Classifier) -> nn.Module:
        if self.mesh is None:
            self.mesh = self.make_mesh()
            model.to(self.seat.device)
            settings: dict[str, Any] = {
                "mesh": self.mesh,
                "mp_policy": self.mixed_precision(),
                "offload_policy": CPUOffloadPolicy() if self.config["offload"] else OffloadPolicy(),
                "reshard_after_forward": self.config["reshard"],
            }
            for module in blocks(model, self.recipe.blocks):
                fully_shard(module, **settings)
            # The network and not the whole model: it takes the preprocessed floats, which are cast at its door.
            fully_shard(model.network, **settings)
            if hasattr(model, MATCHING):
                fully_shard(model.get_submodule(MATCHING), **settings)
        return model

    def make_mesh(self) -> DeviceMesh:
        """`[shard]`, or `[replicate, shard]` where there are several replicas."""
        replicate, shard = self.config["replicate"], self.config["shard"]
        if replicate == 1:
            return init_device_mesh(self.seat.device.type, (shard,), mesh_dim_names=("shard",))
        return init_device_mesh(self.seat.device.type, (replicate, shard), mesh_dim_names=("replicate", "shard"))

    def mixed_precision(self) -> MixedPrecisionPolicy:
        """Weights are gathered and activations computed in this type; gradients are added up in `reduce`."""
        return MixedPrecisionPolicy(
            param_dtype=COMPUTED_IN[self.recipe.precision], reduce_dtype=REDUCED_IN[self.config["reduce"]]
        )

    def precision_context(self, precision: str) -> AbstractContextManager[Any]:
        return nullcontext()

    def synchronize(self, *, last: bool) -> AbstractContextManager[Any]:
        network = self.model.network
        assert isinstance(network, FSDPModule), "fully_shard made it one"
        network.set_requires_gradient_sync(last)
        return nullcontext()

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        self.model.load_state_dict(laid_out_like_all(self.model.state_dict(), weights))
