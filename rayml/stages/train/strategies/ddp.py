"""`ddp`: every rank holds the model; gradients are averaged while the backward pass goes on (arXiv 2006.15704)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from rayml.ml.models import Classifier
from rayml.stages.train.strategies.eager import Eager, has_running_statistics

COMPRESSION = {"fp16": default_hooks.fp16_compress_hook, "bf16": default_hooks.bf16_compress_hook}


class Ddp(Eager):
    """torch's DistributedDataParallel."""

    def wrap(self, model: Classifier) -> nn.Module:
        device = self.seat.device
        model.to(device)
        if self.seat.world_size == 1:
            return model
        parallel = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            bucket_cap_mb=self.config["bucket_mb"],
            static_graph=self.config["static_graph"],
            gradient_as_bucket_view=True,
            forward_sync_buffers=has_running_statistics(model),
        )
        if self.config["compress"] != "none":
            parallel.register_comm_hook(None, COMPRESSION[self.config["compress"]])  # type: ignore[no-untyped-call]
        return parallel

    def synchronize(self, *, last: bool) -> AbstractContextManager[Any]:
        if last or not isinstance(self.forward, DistributedDataParallel):
            return nullcontext()
        return self.forward.no_sync()
