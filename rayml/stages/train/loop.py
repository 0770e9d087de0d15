"""What every rank runs: the loop, from the first row to the last checkpoint.

The order of the rows comes from rayml.ml.order, so the global batch at a position is the same for every world size. The
loss of a step is the mean over the rows of the global batch: each rank sums over its share and divides by the global
count, so a short last batch weighs what it should. A rank that has no row of it reads one with weight 0: every rank has
to take part in every gradient, and batch norm cannot take an empty batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from rayml.ml import order
from rayml.ml.checkpoint import CheckpointWriter
from rayml.ml.freezing import apply_freeze, keep_frozen_statistics
from rayml.stages.api import Emit
from rayml.stages.train.profile import watch
from rayml.stages.train.progress import Progress
from rayml.stages.train.saving import find_checkpoint, load_checkpoint, write_checkpoint
from rayml.stages.train.setup import Training, assemble
from rayml.stages.train.state import (
    LoopConfig,
    LoopState,
    forget_sums,
    keep_on_first_rank,
    merge_over_ranks,
    note_best,
    require_finite,
    settle,
    stops_early,
)
from rayml.stages.train.strategies.base import MicroBatch, Seat
from rayml.stages.train.validation import validate


def train(config: LoopConfig, seat: Seat, emit: Emit) -> LoopState:
    """Train until the last epoch, from the newest whole checkpoint if there is one. Runs on every rank."""
    training, emit = watch(assemble(config, seat, emit), emit)
    checkpoint, state = find_checkpoint(training, emit)
    apply_freeze(training.model, config.train["freeze"], state.epoch)
    training.strategy.prepare(training.model, training.recipe)
    for note in training.strategy.notes:
        emit("note", text=note)
    if checkpoint is not None:
        load_checkpoint(training, checkpoint)

    writer = CheckpointWriter(Path(config.checkpoints), config.keep, config.hosts)
    while state.epoch < config.train["epochs"] and not stops_early(config.train["early_stopping"], state.history):
        run_epoch(training, state, writer, emit)
        record = finish_epoch(training, state)
        improved = note_best(config.train["best"], state, record)
        write_checkpoint(writer, training, state, best=improved)
        emit("epoch", epochs=config.train["epochs"], **record)
    if training.strategy.sharded or seat.rank == 0:
        writer.deliver()
    return state


def run_epoch(training: Training, state: LoopState, writer: CheckpointWriter, emit: Emit) -> None:
    """The optimizer steps that the epoch still has."""
    config, strategy, seat = training.config, training.strategy, training.seat
    rows, seed = len(training.train_set), config.train["seed"]
    running = torch.zeros((), dtype=torch.float64, device=seat.device)
    epoch_order = order.EpochOrder(rows, seed, state.epoch)
    progress = Progress(config, rows, state, emit)
    if apply_freeze(training.model, config.train["freeze"], state.epoch):
        strategy.prepare(training.model, training.recipe)
    training.model.train()
    keep_frozen_statistics(training.model)
    for start, stop in batches(rows, config.train["batch_size"], state.batch):
        strategy.set_lr(training.schedule.factor(state.step))
        training.generator.manual_seed(step_seed(seed, state.step, strategy.data_rank))
        running += strategy.step(read(training, state, epoch_order, start, stop))
        state.batch += 1
        state.step += 1
        if training.average is not None:
            training.average.update(training.model, state.step)
        if not training.stepped:
            training.stepped = True
            emit("first_step", step_index=state.step)
        progress.show(running)
        if config.every_steps and state.step % config.every_steps == 0 and stop < rows:
            progress.stop_clock()
            settle(state, running)
            merged = merge_over_ranks(state, seat.device)
            write_checkpoint(writer, training, merged)
            keep_on_first_rank(state, merged, seat.rank)
    progress.stop_clock()
    settle(state, running)


def batches(rows: int, batch_size: int, first: int) -> Iterator[tuple[int, int]]:
    """Position ranges of an epoch's global batches, from batch number `first`. The last one may be short."""
    for start in range(first * batch_size, rows, batch_size):
        yield start, min(start + batch_size, rows)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of dropout at one step of one rank, so that a resumed run draws what the uninterrupted one would have."""
    return ((seed * 1_000_003 + step) * 4096 + rank) % 2**63


def read(
    training: Training, state: LoopState, epoch_order: order.EpochOrder, start: int, stop: int
) -> list[MicroBatch]:
    """This rank's micro-batches of the global batch at positions `[start, stop)`, noted in the ledger."""
    strategy, train_set, device = training.strategy, training.train_set, training.seat.device
    parts = training.recipe.accumulation
    found = []
    for part in range(parts):
        share = order.share(start, stop, strategy.data_rank * parts + part, strategy.data_size * parts)
        indices = epoch_order.indices(*share)
        missing = max(0, training.fewest_rows - len(indices))
        rows = np.concatenate([indices, epoch_order.indices(0, missing)]) if missing else indices
        features, labels = train_set.gather(rows)
        found.append(
            MicroBatch(
                features=torch.from_numpy(features).to(device, non_blocking=True),
                labels=torch.from_numpy(labels).to(device, non_blocking=True),
                weight=1 / (stop - start) if len(indices) else 0.0,
                padding=missing if len(indices) else 0,
                soft=None if training.soft is None else torch.from_numpy(training.soft[rows]).to(device),
            )
        )
        if strategy.counts:
            state.rows_seen += len(indices)
            state.ids_seen = (state.ids_seen + order.fingerprint(train_set.sample_ids[indices])) % 2**64
    return found


def finish_epoch(training: Training, state: LoopState) -> dict[str, float]:
    """Check the ledger, validate, and move the state to the next epoch. Returns the epoch's record."""
    rows = len(training.train_set)
    merged = merge_over_ranks(state, training.seat.device)
    assert (merged.rows_seen, merged.ids_seen) == (rows, training.expected_ids), (
        f"epoch {state.epoch + 1} read {merged.rows_seen} rows of {rows}, or not each of them once"
    )
    val_loss, val_accuracy = validate(training)
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
        "lr_factor": training.schedule.factor(state.step - 1),
        "skipped_steps": training.strategy.skipped,
    }
    state.history.append(record)
    state.epoch, state.batch, state.seconds = state.epoch + 1, 0, 0.0
    forget_sums(state)
    if training.schedule.metric is not None:
        training.schedule.observe(record[training.schedule.metric])
    return record
