"""The alternative of `rayml bench train` for DeepSpeed: its own loop, written by hand and started by torchrun.

`torchrun --standalone --nproc-per-node 2 -m rayml.bench.deepspeed_by_hand SETTINGS`. The rows, their order and the
loader are those of rayml.bench.torchrun_ddp; the optimizer is torch's fused one, and every rank saves its part of the
training after each epoch, as `engine.save_checkpoint` does.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW
from torch.utils.data import DataLoader

from rayml.bench.gate import Gate
from rayml.bench.torchrun_ddp import SameOrder, in_memory, validate
from rayml.bench.train_settings import load_settings
from rayml.ml.models import build_model
from rayml.ml.shards import load_schema

LAST = "last"


def main(path: str) -> None:
    """Train until the last lap."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    # Compiled at the first start, in a minute, and used by inference alone: the alternative is spared it, too.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    settings = load_settings(path)
    dist.init_process_group("gloo")
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    gate = Gate(str(settings.folder), settings.epochs_per_lap)

    train_set, val_set = (in_memory(settings.data, split) for split in ("train", "val"))
    sampler = SameOrder(len(train_set), settings.batch_size, settings.seed)
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
        train_set,
        sampler=sampler,
        batch_size=None,
        num_workers=settings.loader_workers,
        persistent_workers=settings.loader_workers > 0,
    )
    network = build_model(settings.model, load_schema(settings.data), None)
    engine, *_ = deepspeed.initialize(
        model=network,
        optimizer=AdamW(network.parameters(), lr=settings.lr, weight_decay=0.01, fused=True),
        config={
            "train_batch_size": settings.batch_size,
            "gradient_clipping": 0.0,
            "zero_optimization": {"stage": settings.strategy["zero_stage"]},
        },
        dist_init_required=False,
    )

    for epoch in range(settings.epochs):
        sampler.epoch = epoch
        losses = torch.zeros((), dtype=torch.float64)
        rows = left = len(train_set)
        for features, labels in loader:
            batch = min(settings.batch_size, left)
            # The mean over the ranks' sums is the mean over the batch, also where the last one is short.
            loss = functional.cross_entropy(engine(features), labels, reduction="sum")
            engine.backward(loss * (ranks / batch))
            engine.step()
            losses += loss.detach()
            left -= batch
        dist.all_reduce(losses)
        val_loss = validate(network, val_set, settings)
        engine.save_checkpoint(str(settings.folder), tag=LAST)
        if rank == 0:
            gate.epoch({"loss": losses.item() / rows, "val_loss": val_loss, "rows": rows})
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
