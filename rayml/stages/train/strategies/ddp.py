"""`ddp`: every rank holds the model; gradients are averaged while the backward pass goes on (arXiv 2006.15704)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from rayml.ml.models import Classifier
from rayml.stages.train.strategies.base import Seat
from rayml.stages.train.strategies.eager import Eager
from rayml.stages.train.strategies.shared_memory import SharedSum
from rayml.stages.train.strategies.statistics import has_running_statistics

COMPRESSION = {"fp16": default_hooks.fp16_compress_hook, "bf16": default_hooks.bf16_compress_hook}


class Ddp(Eager):
    """torch's DistributedDataParallel, or a sum in shared memory when the backward pass is done."""

    def __init__(self, config: dict[str, Any], seat: Seat) -> None:
        super().__init__(config, seat)
        self.shared: SharedSum | None = None

    def wrap(self, model: Classifier) -> nn.Module:
        device = self.seat.device
        model.to(device)
        if self.seat.world_size == 1:
            return model
        if self.config["transport"] == "shared_memory":
            return self.share_memory(model)
        parallel = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            bucket_cap_mb=self.config["bucket_mb"],
            static_graph=self.config["static_graph"],
            gradient_as_bucket_view=True,
            forward_sync_buffers=has_running_statistics(model),
        )
        if self.config["compress"] != "none":
            parallel.register_comm_hook(None, COMPRESSION[self.config["compress"]])
        return parallel

    def share_memory(self, model: Classifier) -> nn.Module:
        """Without DistributedDataParallel: all start from the first rank's weights, as there."""
        if self.shared is not None:
            self.shared.close()
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)
        trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        self.shared = SharedSum(trained, self.seat)
        self.gradients_are_means = False
        return model

    def share_gradients(self) -> None:
        if self.shared is not None:
            self.shared.add_up()

    def synchronize(self, *, last: bool) -> AbstractContextManager[Any]:
        if last or not isinstance(self.forward, DistributedDataParallel):
            return nullcontext()
        return self.forward.no_sync()
