"""What DeepSpeed 0.19 keeps and copies in each stage of ZeRO, for the rehearsal: its own code needs values.

Read from its allocations: stages 1 and 2 lay the weights and each rank's float32 copy flat, gather gradients in a
bucket of fixed size, and copy all of them once more at the end of the backward pass; stage 3 has parts of everything,
and whole weights from the forward pass of their module to its backward pass.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from rayml.ml.models import Classifier
from rayml.stages.train.strategies.base import Seat
from rayml.stages.train.strategies.eager import COMPUTED_IN, Eager

REDUCE_BUCKET = 500_000_000
"""Elements of `reduce_bucket_size` where the document does not name it."""
LIVE_PARAMETERS = 1_000_000_000
"""`stage3_max_live_parameters` where the document does not name it."""
PREFETCHED = 50_000_000
"""`stage3_prefetch_bucket_size` where the document does not name it."""

Weights = list[tuple[torch.UntypedStorage, int]]
"""Where they lie, and their bytes."""


class RehearsedDeepSpeed(Eager):
    """One rank of any stage."""

    def __init__(self, config: dict[str, Any], seat: Seat) -> None:
        super().__init__(config, seat)
        zero = config["document"].get("zero_optimization", {})
        self.stage: int = config["zero_stage"]
        self.bucket_elements = int(zero.get("reduce_bucket_size", REDUCE_BUCKET))
        self.most_live = int(zero.get("stage3_max_live_parameters", LIVE_PARAMETERS))
        self.buckets = 2 if zero.get("overlap_comm", False) else 1
        self.optimizer_device = torch.device("cpu") if config["offload"] != "none" else seat.device
        self.prefetched = int(zero.get("stage3_prefetch_bucket_size", PREFETCHED))
        self.gathered: Tensor | None = None
        self.held: list[Tensor] = []
        self.used: Weights = []

    def wrap(self, model: Classifier) -> nn.Module:
        dtype = COMPUTED_IN[self.recipe.precision] or torch.float32
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                module.register_parameter(name, nn.Parameter(parameter.to(dtype), parameter.requires_grad))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.elements = sum(parameter.numel() for parameter in trained)
        self.dtype = dtype
        if self.stage == 3:
            self.share_weights(model)
        for parameter in trained if self.stage else []:
            parameter.register_post_accumulate_grad_hook(self.hand_over)  # type: ignore[no-untyped-call]
        return model

    def make_optimizer(self, named: list[tuple[str, nn.Parameter]]) -> Optimizer:
        optimizer = super().make_optimizer(named)
        if self.stage or self.dtype != torch.float32:
            self.flat = nn.Parameter(self.part(torch.float32, self.optimizer_device))
            optimizer.param_groups[:] = [{**optimizer.param_groups[0], "params": [self.flat], "names": ["flat"]}]
        return optimizer

    def part(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """This rank's share of something of every trained parameter."""
        ranks = self.seat.world_size if self.stage else 1
        return torch.empty(ceil(self.elements / ranks), dtype=dtype, device=device)

    def share_weights(self, model: Classifier) -> None:
        """Leave the weights no memory but while their module computes."""
        self.held = [self.part(self.dtype, self.seat.device), self.part(self.dtype, self.seat.device), self.bucket()]
        for module in model.modules():
            own = [(each.untyped_storage(), each.nbytes) for each in module.parameters(recurse=False)]
            if own:
                release(own)
                module.register_forward_pre_hook(lambda *_, own=own: self.enter(own))
                module.register_forward_hook(lambda _, inputs, made, own=own: self.leave(own, made))

    def enter(self, own: Weights) -> None:
        """Before a module's forward pass. The first one fetches, in one piece, what comes next as well."""
        if self.gathered is None:
            elements = min(self.elements, self.prefetched, self.most_live)
            self.gathered = self.empty(elements)
        gather(own)

    def leave(self, own: Weights, made: Tensor) -> None:
        """After a module's forward pass; its backward pass begins with the gradient of what it made.

        Weights that are used again soon stay: in DeepSpeed's sense all of a model below `stage3_max_live_parameters`.
        """
        if self.elements <= self.most_live:
            return
        release(own)
        if made.requires_grad:
            made.register_hook(lambda _: gather(own))  # type: ignore[no-untyped-call]

    def bucket(self) -> Tensor:
        return self.empty(self.buckets * self.bucket_elements)

    def hand_over(self, parameter: nn.Parameter) -> None:
        """A gradient goes into the bucket; in stage 3, one that is larger is sent by itself."""
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None, "autograd has just left it"
        if self.stage < 3:
            self.held = self.held or [self.bucket()]
            return
        self.gathered = None
        if parameter.numel() > self.bucket_elements:
            self.send(gradient)
        release(self.used)
        self.used = [(parameter.untyped_storage(), parameter.nbytes)]

    def send(self, gradient: Tensor) -> None:
        """Scatter a sum over the ranks."""
        ranks = self.seat.world_size
        even = gradient.reshape(-1)[: gradient.numel() // ranks * ranks]
        dist.reduce_scatter_single(even.chunk(ranks)[0], even)

    def share_gradients(self) -> None:
        self.copy_gradients()
        if self.stage < 3:
            self.held = []
        else:
            release(self.used)
        if self.stage or self.dtype != torch.float32:
            self.flat.grad = self.part(torch.float32, self.optimizer_device)

    def copy_gradients(self) -> None:
        """What is copied at the end of the backward pass and given back at once."""
        sizes = [parameter.numel() for parameter in self.trained]
        if self.stage == 3:
            self.send(self.empty(sum(size for size in sizes if size <= self.bucket_elements)))
            return
        copies = [self.empty(min(self.elements, REDUCE_BUCKET))]
        if self.stage and max(sizes) > self.bucket_elements:
            copies.append(self.empty(max(sizes)))

    def empty(self, elements: int) -> Tensor:
        return torch.empty(elements, dtype=self.dtype, device=self.seat.device)


def gather(own: Weights) -> None:
    for storage, size in own:
        storage.resize_(size)


def release(own: Weights) -> None:
    for storage, _ in own:
        storage.resize_(0)
