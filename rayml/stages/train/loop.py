"""What every training worker runs: the loop, from the first row to the last checkpoint.

The order of the rows comes from rayml.ml.order, so the global batch at a position is the same for every world size. The
loss of a step is the mean over the rows of the global batch: each rank sums over its share and divides by the global
count, so a short last batch weighs what it should. A rank that has no row of it reads one with weight 0: every rank has
to take part in every gradient, and batch norm cannot take an empty batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from rayml.ml import order, tasks
from rayml.ml.checkpoint import CheckpointWriter, checkpoint_name, newest_checkpoint
from rayml.ml.models import Classifier, build_model
from rayml.ml.shards import ShardSet, load_schema
from rayml.stages.train.optimizers import build_optimizer
from rayml.stages.train.progress import Emit, Progress
from rayml.stages.train.state import (
    LoopConfig,
    LoopState,
    forget_sums,
    keep_on_first_rank,
    merge_over_ranks,
    note_best,
    require_finite,
    settle,
)
from rayml.stages.train.validation import validate


def train(config: LoopConfig, device: torch.device, emit: Emit) -> LoopState:
    """Train until the last epoch, from the newest whole checkpoint if there is one. Runs on every rank."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    generator = device_generator(device)

    data = Path(config.data)
    train_set, val_set = ShardSet.open(data, "train"), ShardSet.open(data, "val")
    expected_ids = order.fingerprint(train_set.sample_ids)
    model = build_model(config.model, load_schema(data), config.code).to(device)
    optimizer = build_optimizer(config.optimizer, model)
    state = resume(config, model, optimizer, emit)
    parallel = DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        forward_sync_buffers=has_running_statistics(model),
    )

    writer = CheckpointWriter(Path(config.checkpoints), config.keep)
    running = torch.zeros((), dtype=torch.float64, device=device)
    while state.epoch < config.epochs:
        epoch_order = order.EpochOrder(len(train_set), config.seed, state.epoch)
        progress = Progress(config, len(train_set), state, emit)
        parallel.train()  # type: ignore[no-untyped-call]
        for start, stop in batches(len(train_set), config.batch_size, state.batch):
            indices = epoch_order.indices(*order.share(start, stop, rank, world_size))
            features, labels = train_set.gather(indices if len(indices) else epoch_order.indices(start, start + 1))
            running += train_step(
                parallel,
                optimizer,
                generator,
                torch.from_numpy(features).to(device, non_blocking=True),
                torch.from_numpy(labels).to(device, non_blocking=True),
                scale=world_size / (stop - start) if len(indices) else 0.0,
                seed=step_seed(config.seed, state.step, rank),
            ) * bool(len(indices))
            state.rows_seen += len(indices)
            state.ids_seen = (state.ids_seen + order.fingerprint(train_set.sample_ids[indices])) % 2**64
            state.batch += 1
            state.step += 1
            progress.show(running)
            if config.every_steps and state.step % config.every_steps == 0 and stop < len(train_set):
                progress.stop_clock()
                settle(state, running)
                merged = merge_over_ranks(state, device)
                write_checkpoint(writer, model, optimizer, merged, rank)
                keep_on_first_rank(state, merged, rank)
        progress.stop_clock()
        settle(state, running)
        record = finish_epoch(parallel, val_set, config, state, expected_ids, len(train_set), device)
        improved = note_best(config, state, record)
        write_checkpoint(writer, model, optimizer, state, rank, best=improved)
        emit("epoch", epochs=config.epochs, **record)
    writer.finish()
    return state


def device_generator(device: torch.device) -> torch.Generator:
    """The generator that dropout draws from. Seeding it alone is 50 times cheaper than `torch.manual_seed`."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def resume(config: LoopConfig, model: Classifier, optimizer: Optimizer, emit: Emit) -> LoopState:
    """The state of the newest whole checkpoint, loaded into model and optimizer; a new state where there is none."""
    checkpoint, warnings = newest_checkpoint(Path(config.checkpoints))
    for warning in warnings:
        emit("note", text=warning)
    if checkpoint is None:
        return LoopState()
    model.load_state_dict(checkpoint.weights())
    checkpoint.load_optimizer(optimizer)
    state = LoopState(**{key: value for key, value in checkpoint.state.items() if key != "optimizer"})
    emit("note", text=f"continues from epoch {state.epoch}, batch {state.batch} ({checkpoint.path.name})")
    if dist.get_rank() != 0:
        forget_sums(state)
    return state


def has_running_statistics(model: torch.nn.Module) -> bool:
    """Whether a layer keeps statistics while it trains (batch norm): only then do buffers have to be sent around."""
    return any(getattr(module, "track_running_stats", False) for module in model.modules())


def batches(rows: int, batch_size: int, first: int) -> Iterator[tuple[int, int]]:
    """Position ranges of an epoch's global batches, from batch number `first`. The last one may be short."""
    for start in range(first * batch_size, rows, batch_size):
        yield start, min(start + batch_size, rows)


def train_step(
    model: DistributedDataParallel,
    optimizer: Optimizer,
    generator: torch.Generator,
    features: Tensor,
    labels: Tensor,
    scale: float,
    seed: int,
) -> Tensor:
    """One optimizer step on this rank's share; returns the loss summed over the share, still on the device.

    `scale` is world size / rows of the global batch: DDP averages the gradients over ranks, so the sum over the share
    times this is the gradient of the mean over the global batch.
    """
    generator.manual_seed(seed)
    optimizer.zero_grad(set_to_none=True)
    loss = tasks.loss_sum(model(features), labels)
    (loss * scale).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of dropout at one step of one rank, so that a resumed run draws what the uninterrupted one would have."""
    return ((seed * 1_000_003 + step) * 4096 + rank) % 2**63


def finish_epoch(
    model: DistributedDataParallel,
    val_set: ShardSet,
    config: LoopConfig,
    state: LoopState,
    expected_ids: int,
    rows: int,
    device: torch.device,
) -> dict[str, float]:
    """Check the ledger, validate, and move the state to the next epoch. Returns the epoch's record."""
    merged = merge_over_ranks(state, device)
    assert (merged.rows_seen, merged.ids_seen) == (rows, expected_ids), (
        f"epoch {state.epoch + 1} read {merged.rows_seen} rows of {rows}, or not each of them once"
    )
    val_loss, val_accuracy = validate(model.module, val_set, config.batch_size, device)
    require_finite("validation", val_loss, f"epoch {state.epoch + 1}")
    record = {
        "epoch": state.epoch + 1,
        "step_index": state.step,
        "train/loss": merged.loss_sum / rows,
        "val/loss": val_loss,
        "val/accuracy": val_accuracy,
        "rows_seen": merged.rows_seen,
        "seconds": state.seconds,
        "samples_per_s": rows / state.seconds,
    }
    state.history.append(record)
    state.epoch, state.batch, state.seconds = state.epoch + 1, 0, 0.0
    forget_sums(state)
    return record


def write_checkpoint(
    writer: CheckpointWriter, model: Classifier, optimizer: Optimizer, state: LoopState, rank: int, best: bool = False
) -> None:
    """The first rank writes; the others go on and meet it at the next gradient."""
    if rank != 0:
        return
    name = checkpoint_name(state.step)
    if best:
        state.best_checkpoint = name
    writer.write(name, model.state_dict(), optimizer, asdict(state))
