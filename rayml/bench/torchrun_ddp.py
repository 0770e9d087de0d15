"""The alternative of `rayml bench train` for DDP and FSDP2: the loop that a good engineer writes by hand, on torchrun.

`torchrun --standalone --nproc-per-node 2 -m rayml.bench.torchrun_ddp SETTINGS`. Everything is in memory before the
first epoch, the loader slices whole batches out of it, the optimizer is the fused one, gradients live in DDP's buckets,
and the first rank saves the model and the optimizer after each epoch. It resumes nothing, checks nothing and tells
nobody how it goes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_saver import save as save_parts
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.utils.data import DataLoader, Sampler, TensorDataset

from rayml.bench.gate import Gate
from rayml.bench.train_settings import TrainSettings, load_settings
from rayml.ml.models import build_model
from rayml.ml.order import EpochOrder
from rayml.ml.shards import ShardSet, load_schema


class SameOrder(Sampler[list[int]]):
    """A distributed batch sampler that reads the rows in rayml's order, so that both sides have the same losses."""

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed, self.epoch = rows, batch_size, seed, 0
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()

    def __iter__(self) -> Iterator[list[int]]:
        order = EpochOrder(self.rows, self.seed, self.epoch).indices(0, self.rows).tolist()
        for start in range(0, self.rows, self.batch_size):
            batch = order[start : start + self.batch_size]
            first, last = (len(batch) * place // self.ranks for place in (self.rank, self.rank + 1))
            yield batch[first:last]

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch_size)


def main(path: str) -> None:
    """Train until the last lap."""
    settings = load_settings(path)
    dist.init_process_group("gloo")
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    gate = Gate(str(settings.folder), settings.epochs_per_lap)

    train_set, val_set = (in_memory(settings.data, split) for split in ("train", "val"))
    sampler = SameOrder(len(train_set), settings.batch_size, settings.seed)
    # batch_size=None: the sampler's list is one index, so that a batch is one slice and not a loop over its rows.
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
        train_set,
        sampler=sampler,
        batch_size=None,
        num_workers=settings.loader_workers,
        persistent_workers=settings.loader_workers > 0,
    )
    network = build_model(settings.model, load_schema(settings.data), None)
    model = in_parts(network, settings) if settings.strategy["kind"] == "fsdp" else whole(network)
    optimizer = AdamW(model.parameters(), lr=settings.lr, weight_decay=0.01, fused=True)
    if (stepped := settings.first_step) is not None:
        optimizer.register_step_post_hook(lambda *_: stepped.touch())

    for epoch in range(settings.epochs):
        sampler.epoch = epoch
        losses = torch.zeros((), dtype=torch.float64)
        rows = left = len(train_set)
        for images, labels in loader:
            optimizer.zero_grad(set_to_none=True)
            batch = min(settings.batch_size, left)
            # The mean over the ranks' sums is the mean over the batch, also where the last one is short.
            loss = functional.cross_entropy(model(images), labels, reduction="sum")
            (loss * (ranks / batch)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses += loss.detach()
            left -= batch
        dist.all_reduce(losses)
        val_loss = validate(network, val_set, settings)
        save(settings, epoch, network, optimizer)
        if rank == 0:
            gate.epoch({"loss": losses.item() / rows, "val_loss": val_loss, "rows": rows})
    dist.destroy_process_group()


def whole(network: nn.Module) -> nn.Module:
    """A copy of the model on each rank, its gradients averaged."""
    statistics = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return DistributedDataParallel(network, gradient_as_bucket_view=True, broadcast_buffers=statistics)


def in_parts(network: nn.Module, settings: TrainSettings) -> nn.Module:
    """A part of each block on each rank."""
    mesh = init_device_mesh("cpu", (settings.ranks,))
    for module in reversed(list(network.modules())):
        if type(module).__name__ in settings.blocks:
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def in_memory(data: Path, split: str) -> TensorDataset:
    """A split as tensors: images `[rows, height, width, channels] uint8`, labels `[rows] int64`."""
    shards = ShardSet.open(data, split)
    images, labels = shards.rows(0, len(shards))
    return TensorDataset(torch.tensor(images), torch.tensor(labels))


@torch.no_grad()
def validate(model: nn.Module, val_set: TensorDataset, settings: TrainSettings) -> float:
    """Mean loss over the validation split, each rank reading its part."""
    model.eval()
    images, labels = val_set.tensors
    rows, rank, ranks = len(images), dist.get_rank(), dist.get_world_size()
    first, last = rows * rank // ranks, rows * (rank + 1) // ranks
    total = torch.zeros((), dtype=torch.float64)
    for start in range(first, last, settings.batch_size):
        part = slice(start, min(start + settings.batch_size, last))
        total += functional.cross_entropy(model(images[part]), labels[part], reduction="sum")
    dist.all_reduce(total)
    model.train()
    return total.item() / rows


def save(settings: TrainSettings, epoch: int, model: nn.Module, optimizer: AdamW) -> None:
    """The checkpoint of an epoch; the one before is replaced. Parts are written by the ranks that have them."""
    if settings.strategy["kind"] == "fsdp":
        weights, slots = get_state_dict(model, optimizer)
        save_parts({"model": weights, "optimizer": slots}, checkpoint_id=str(settings.folder / "last"))
        return
    if dist.get_rank() != 0:
        return
    state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, settings.folder / "last.pt")


if __name__ == "__main__":
    main(sys.argv[1])
