"""Where training stands, as values: what the loop is given, what it counts, what a checkpoint keeps."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from rayml.artifacts.hosts import ONE_FOLDER, Hosts
from rayml.errors import StageError
from rayml.stages.train.collective import sum_over_ranks


@dataclass(frozen=True)
class LoopConfig:
    """What the driver hands to each rank. Plain values only: it travels."""

    train: dict[str, Any]
    """The train step's configuration: model, strategy, recipe, every "auto" a number."""
    every_steps: int
    """Optimizer steps between checkpoints; 0: only at the end of an epoch."""
    keep: int
    threads: int
    data: str
    """Folder of the canonical shards."""
    checkpoints: str
    code: str | None
    start: str | None = None
    """Folder of the weights to start from."""
    teacher: str | None = None
    """Folder of the answers to learn (rayml.stages.train.distill), and of the teacher where its layers are matched."""
    profile: dict[str, Any] | None = None
    """`steps`, `wait` and `trace`, the file for torch's trace; None: nothing is watched."""
    gpu_memory_fraction: float | None = None
    finder: dict[str, Any] | None = None
    """What `rayml tune` looks for: its `kind` and its settings; None: a training."""
    hosts: Hosts = ONE_FOLDER
    """How other hosts get the checkpoints."""


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


STATE_FIELDS = tuple(each.name for each in fields(LoopState))


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


def merge_over_ranks(state: LoopState, device: torch.device) -> LoopState:
    """The state with this epoch's sums taken over all ranks."""
    high, low = divmod(state.ids_seen, 2**32)
    sums = torch.tensor([state.loss_sum, state.rows_seen, high, low], dtype=torch.float64, device=device)
    loss_sum, rows_seen, high_sum, low_sum = sum_over_ranks(sums).tolist()
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


def note_best(best: dict[str, str], state: LoopState, record: dict[str, float]) -> bool:
    """Whether this epoch is the best so far; an equal value later does not replace an earlier one."""
    value = record[best["metric"]]
    sign = 1 if best["goal"] == "max" else -1
    improved = state.best_value is None or sign * value > sign * state.best_value
    if improved:
        state.best_value = value
    return improved


def stops_early(rule: dict[str, Any] | None, history: list[dict[str, float]]) -> bool:
    """Whether the metric has not got better by `min_delta` for `patience` epochs. A pure function of the history."""
    if rule is None:
        return False
    sign = 1 if rule["goal"] == "max" else -1
    best, since = -math.inf, 0
    for record in history:
        value = sign * record[rule["metric"]]
        best, since = (value, 0) if value > best + rule["min_delta"] else (best, since + 1)
    return since >= int(rule["patience"])
