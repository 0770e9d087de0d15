"""Between the loop and its checkpoints: what is written, and what a start finds."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from rayml.ml.checkpoint import (
    NOT_WHOLE,
    Checkpoint,
    CheckpointWriter,
    checkpoint_name,
    newest_checkpoint,
    read_checkpoint,
    whole_checkpoints,
)
from rayml.stages.api import Emit
from rayml.stages.train.collective import from_first_rank, gather_texts
from rayml.stages.train.setup import Training
from rayml.stages.train.state import STATE_FIELDS, LoopState, forget_sums
from rayml.stages.train.strategies.base import TrainingState


def find_checkpoint(training: Training, emit: Emit) -> tuple[Checkpoint | None, LoopState]:
    """The newest whole checkpoint with its state; a new state where there is none."""
    root = Path(training.config.checkpoints)
    if training.config.hosts.share_folders:
        checkpoint, notes = newest_checkpoint(root)
    else:
        checkpoint, notes = newest_of_all(root, training.seat.device)
    for note in notes:
        emit("note", text=note)
    if checkpoint is None:
        return None, LoopState()
    state = LoopState(**{name: checkpoint.state[name] for name in STATE_FIELDS})
    emit("note", text=f"continues from epoch {state.epoch}, batch {state.batch} ({checkpoint.path.name})")
    if training.seat.rank != 0:
        forget_sums(state)
    return checkpoint, state


def newest_of_all(root: Path, device: torch.device) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole on every rank's host, and a sentence for each newer one of the first rank.

    Hosts may differ: one that was lost had not sent its last one yet.
    """
    notes: list[str] = []
    for name in gather_texts("\n".join(whole_checkpoints(root)), device)[0].splitlines():
        found, trouble = read_or_say(root / name)
        troubles = gather_texts(trouble, device)
        if not any(troubles):
            return found, notes
        notes.append(f"checkpoint {name} was passed over: {next(filter(None, troubles))}")
        # All ranks have said so: nobody goes on from it, and it must not count as one that is kept.
        shutil.rmtree(root / name, ignore_errors=True)
    return None, notes


def read_or_say(folder: Path) -> tuple[Checkpoint | None, str]:
    """The checkpoint, or why nobody can go on from it: it is not whole, or the best one is not there any more."""
    try:
        found = read_checkpoint(folder)
        best = found.state["best_checkpoint"]
        if best is not None and best not in whole_checkpoints(folder.parent):
            return None, f"the best one, {best}, is gone"
        return found, ""
    except NOT_WHOLE as error:
        return None, str(error) or type(error).__name__


def load_checkpoint(training: Training, checkpoint: Checkpoint) -> None:
    """Put a checkpoint into the prepared strategy, the schedule and the average."""
    saved, strategy = checkpoint.state, training.strategy
    held = training.model.state_dict() if strategy.sharded else None
    strategy.load(
        TrainingState(checkpoint.tensors("model", held), checkpoint.tensors("optimizer", held), saved["strategy"])
    )
    training.schedule.load(saved["schedule"])
    if training.average is not None:
        means = checkpoint.tensors("average", held)
        names = {name for name, _ in training.model.named_parameters()}
        training.average.load({name: mean for name, mean in means.items() if name in names}, saved["average"])


def write_checkpoint(writer: CheckpointWriter, training: Training, state: LoopState, best: bool = False) -> None:
    """Write down where training stands. Every rank calls it; who writes what, the strategy decides.

    Where the first rank holds everything it writes beside the training; the others meet it at the next gradient.
    """
    strategy, average, device = training.strategy, training.average, training.seat.device
    strategy.settle()
    kept = strategy.state()
    if not strategy.sharded and training.seat.rank != 0:
        return
    token = secrets.randbits(32)
    if strategy.sharded:
        # Before any rank learns the new folder's name: the first one prunes folders that are not whole.
        writer.finish()
        token = from_first_rank(token, device)
    name = checkpoint_name(state.step, f"{token:08x}")
    if best:
        state.best_checkpoint = name
    groups = {"model": kept.weights, "optimizer": kept.optimizer}
    if average is not None:
        groups["average"] = {**average.tensors(), **training.statistics}
    document = {
        **asdict(state),
        "strategy": kept.plain,
        "schedule": training.schedule.state(),
        "average": None if average is None else average.plain(),
    }
    write = writer.write_shards if strategy.sharded else writer.write
    write(name, groups, document)
