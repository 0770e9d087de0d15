"""What every training worker runs: the loop, from the first row to the last checkpoint.

The order of the rows comes from rayml.ml.order, so the global batch at a position is the same for every world size. The
loss of a step is the mean over the rows of the global batch: each rank sums over its share and divides by the global
count, so a short last batch weighs what it should. A rank that has no row of it reads one with weight 0: every rank has
to take part in every gradient, and batch norm cannot take an empty batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer

from rayml.errors import StageError
from rayml.ml import order, tasks
from rayml.ml.checkpoint import CheckpointWriter, checkpoint_name, newest_checkpoint
from rayml.ml.models import Classifier, build_model
from rayml.ml.shards import ShardSet, load_schema

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adamw": AdamW, "sgd": SGD}
PROGRESS_INTERVAL_S = 0.5
VALIDATION_ROWS = 256
"""Rows of a validation batch at least: without gradients there is memory for more than in training."""

Emit = Callable[..., None]


@dataclass(frozen=True)
class LoopConfig:
    """What the driver hands to each worker. Plain values only: it travels."""

    model: dict[str, Any]
    optimizer: dict[str, Any]
    epochs: int
    batch_size: int
    """Rows of the global batch."""
    seed: int
    best_metric: str
    best_goal: str
    every_steps: int
    """0: only at the end of an epoch."""
    keep: int
    threads: int
    data: str
    """Folder of the canonical shards."""
    checkpoints: str
    code: str | None


@dataclass
class LoopState:
    """Where training stands. Written into each checkpoint."""

    epoch: int = 0
    """Epochs that are finished."""
    batch: int = 0
    """Batches of the present epoch that are finished."""
    step: int = 0
    """Optimizer steps taken."""
    loss_sum: float = 0.0
    rows_seen: int = 0
    ids_seen: int = 0
    """rayml.ml.order.fingerprint of the rows seen in this epoch, over all ranks."""
    seconds: float = 0.0
    """Time spent in this epoch."""
    best_value: float | None = None
    best_checkpoint: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)


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


def build_optimizer(config: dict[str, Any], model: torch.nn.Module) -> Optimizer:
    """The optimizer of an `optimizer` section, over the parameters that are trained."""
    settings = {key: tuple(value) if key == "betas" else value for key, value in config.items() if key != "kind"}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # One kernel for all parameters: 0.07 to 0.10 ms instead of 0.28 ms per AdamW step of the small CNN on a CPU.
    fused = all(parameter.is_floating_point() for parameter in trained)
    return OPTIMIZERS[config["kind"]](trained, fused=fused, **settings)


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


def settle(state: LoopState, running: Tensor) -> None:
    """Take the loss from the device into the state. Waits for the GPU, so it is not done at every step."""
    value = running.item()
    running.zero_()
    require_finite("training", value, f"epoch {state.epoch + 1}, at or before batch {state.batch}")
    state.loss_sum += value


def require_finite(which: str, loss: float, place: str) -> None:
    """StageError where a loss is not a number: nothing that follows from it means anything."""
    if not math.isfinite(loss):
        raise StageError(
            f"the {which} loss became {loss}",
            where=f"train, {place}",
            hint="lower train.optimizer.lr, or look for extreme values in the data",
        )


class Progress:
    """Tells how the epoch goes, from this rank, at most twice a second."""

    def __init__(self, config: LoopConfig, rows: int, state: LoopState, emit: Emit) -> None:
        self.config, self.state, self.emit = config, state, emit
        self.batches = -(-rows // config.batch_size)
        self.first_batch = state.batch
        self.started = self.shown = time.perf_counter()

    def show(self, running: Tensor) -> None:
        now = time.perf_counter()
        if now - self.shown < PROGRESS_INTERVAL_S:
            return
        self.shown = now
        settle(self.state, running)
        state, config = self.state, self.config
        self.emit(
            "progress",
            epoch=state.epoch + 1,
            epochs=config.epochs,
            batch=state.batch,
            batches=self.batches,
            loss=state.loss_sum / state.rows_seen if state.rows_seen else 0.0,
            samples_per_s=config.batch_size * (state.batch - self.first_batch) / (now - self.started),
        )

    def stop_clock(self) -> None:
        """Add the time since the last call to the epoch's seconds: checkpoints and validation are not training."""
        now = time.perf_counter()
        self.state.seconds += now - self.started
        self.started, self.first_batch = now, self.state.batch


def merge_over_ranks(state: LoopState, device: torch.device) -> LoopState:
    """The state with this epoch's sums taken over all ranks."""
    high, low = divmod(state.ids_seen, 2**32)
    sums = torch.tensor([state.loss_sum, state.rows_seen, high, low], dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    loss_sum, rows_seen, high_sum, low_sum = sums.tolist()
    ids_seen = (int(high_sum) * 2**32 + int(low_sum)) % 2**64
    return LoopState(**{**asdict(state), "loss_sum": loss_sum, "rows_seen": int(rows_seen), "ids_seen": ids_seen})


def keep_on_first_rank(state: LoopState, merged: LoopState, rank: int) -> None:
    """After a merge in the middle of an epoch the first rank holds the sums, so that nothing is counted twice."""
    if rank == 0:
        state.loss_sum, state.rows_seen, state.ids_seen = merged.loss_sum, merged.rows_seen, merged.ids_seen
    else:
        forget_sums(state)


def forget_sums(state: LoopState) -> None:
    """Start this rank's sums of the epoch at nothing."""
    state.loss_sum, state.rows_seen, state.ids_seen = 0.0, 0, 0


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


@torch.no_grad()
def validate(model: torch.nn.Module, val_set: ShardSet, batch_size: int, device: torch.device) -> tuple[float, float]:
    """Mean loss and accuracy over all rows of the validation split, each rank reading its share."""
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    first, last = order.share(0, len(val_set), dist.get_rank(), dist.get_world_size())
    batch_size = max(batch_size, VALIDATION_ROWS)
    for start in range(first, last, batch_size):
        features, labels = val_set.gather(np.arange(start, min(start + batch_size, last)))
        targets = torch.from_numpy(labels).to(device)
        logits = model(torch.from_numpy(features).to(device))
        sums += torch.stack([tasks.loss_sum(logits, targets).double(), tasks.count_correct(logits, targets).double()])
    dist.all_reduce(sums)
    model.train()
    loss, correct = (sums / len(val_set)).tolist()
    return loss, correct


def note_best(config: LoopConfig, state: LoopState, record: dict[str, float]) -> bool:
    """Whether this epoch is the best so far; an equal value later does not replace an earlier one."""
    value = record[config.best_metric]
    sign = 1 if config.best_goal == "max" else -1
    improved = state.best_value is None or sign * value > sign * state.best_value
    if improved:
        state.best_value = value
    return improved


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
