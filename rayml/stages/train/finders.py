"""What `rayml tune` finds on the real ranks: a learning rate, and how many rows a micro-batch should have.

No checkpoint is read or written. Every rank goes the same way, since all see the same losses, times and bytes.
"""

from __future__ import annotations

import gc
import math
import time
from typing import Any

import torch
import torch.distributed as dist

from rayml.stages.api import Emit
from rayml.stages.train.collective import sum_over_ranks
from rayml.stages.train.memory import peak_resident
from rayml.stages.train.room import memory_budget
from rayml.stages.train.state import LoopConfig
from rayml.stages.train.strategies.base import Seat
from rayml.stages.train.trial import Trial, synchronize

SMOOTHING = 0.9
DIVERGED = 4.0
"""Times the least smoothed loss, at which a ramp ends where that is also more than it began with."""
REACHED = "the last learning rate was reached"
WARM_UP = 2
STEP_LIMIT_S = 20.0
"""No more rows are tried once a step takes as long."""
LEAST_GAIN = 1.03
PATIENCE = 3
"""Doublings without that gain after which no more rows are tried."""


def find(config: LoopConfig, finder: dict[str, Any], seat: Seat, emit: Emit) -> None:
    """Find what `finder` asks for; told as a fact of that name."""
    trial = Trial(config, seat, weights=True)
    search = {"lr_range": lr_range, "batch_range": batch_range}[finder["kind"]]
    emit("fact", name=finder["kind"], value=search(trial, finder, emit))


def lr_range(trial: Trial, finder: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Train with a learning rate that grows from `from` to `to` by the same factor at each step (arXiv 1506.01186).

    Ends before `to` where the loss is no longer a number or has grown too much.
    """
    steps, first, last = finder["steps"], finder["from"], finder["to"]
    base, rows = trial.config.train["optimizer"]["lr"], trial.config.train["batch_size"]
    points: list[dict[str, float]] = []
    mean, least, ended = 0.0, math.inf, REACHED
    for step in range(steps):
        lr = first * (last / first) ** (step / (steps - 1))
        trial.training.strategy.set_lr(lr / base)
        rows_before = trial.state.rows_seen
        loss = trial.step_on(next(trial.rows)).double().reshape(1)
        seen = torch.tensor([trial.state.rows_seen - rows_before], dtype=torch.float64, device=trial.device)
        total, count = sum_over_ranks(torch.cat([loss, seen])).tolist()
        loss_mean = total / count
        if not math.isfinite(loss_mean):
            ended = f"the loss became {loss_mean}"
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss_mean
        smooth = mean / (1 - SMOOTHING ** (step + 1))
        points.append({"lr": lr, "loss": loss_mean, "smooth": smooth})
        emit("progress", step_index=step + 1, steps=steps, lr=lr, loss=smooth)
        least = min(least, smooth)
        if smooth > max(DIVERGED * least, points[0]["smooth"]):
            ended = f"the loss rose to {smooth:.3g}"
            break
    return {"points": points, "ended": ended, "diverged": ended != REACHED, "batch_size": rows}


def batch_range(trial: Trial, finder: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Time steps with micro-batches of 1, 2, 4, ... rows on every rank, until memory, rows or gain end."""
    size, parts = trial.training.strategy.data_size, trial.training.recipe.accumulation
    start, most = resident(trial.device), len(trial.training.train_set) // (size * parts)
    budget = -largest(-memory_budget(finder["memory_share"], trial.device), trial.device)
    trial.training.strategy.set_lr(0.0)
    table: list[dict[str, float]] = []
    rows, ended, without_gain = trial.training.fewest_rows, "", 0
    while not ended:
        seconds = time_rows(trial, rows, finder["steps"])
        if seconds is None:
            ended = f"{rows:,} rows do not fit into the GPU's memory"
            break
        used = largest(max(0, resident(trial.device) - start), trial.device)
        best = max((row["samples_per_s"] for row in table), default=0.0)
        speed = rows * size * parts / seconds
        table.append({"rows": rows, "samples_per_s": speed, "step_ms": 1000 * seconds, "memory": used})
        emit("progress", **table[-1])
        without_gain = 0 if speed > LEAST_GAIN * best else without_gain + 1
        rows *= 2
        ended = reason_to_end(rows, seconds, 2 * used, budget, without_gain, most)
    batch_size = trial.config.train["batch_size"]
    return {"table": table, "ended": ended, "data": size, "batch_size": batch_size, "accumulation": parts}


def reason_to_end(rows: int, seconds: float, memory: float, budget: float, without_gain: int, most: int) -> str:
    """Why so many rows are not tried any more; empty where they are."""
    if rows > most:
        return f"the training split has {most:,} rows for a micro-batch of each worker"
    if memory > budget:
        return f"{rows:,} rows would take about {memory / 2**20:,.0f} MiB, and a worker may take {budget / 2**20:,.0f}"
    if without_gain >= PATIENCE:
        return f"{PATIENCE} doublings brought nothing"
    if seconds > STEP_LIMIT_S:
        return f"a step takes {seconds:.0f} s"
    return ""


def time_rows(trial: Trial, rows: int, steps: int) -> float | None:
    """Seconds of a step with so many rows, of the slowest rank; None where they do not fit into a GPU."""
    batch, fits = trial.micro_batch(rows), 1
    seconds = 0.0
    try:
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                synchronize(trial.device)
                started = time.perf_counter()
            trial.step_on([batch] * trial.training.recipe.accumulation)
        synchronize(trial.device)
        seconds = (time.perf_counter() - started) / steps
    except torch.OutOfMemoryError:
        fits = 0
    if largest(1 - fits, trial.device):
        del batch
        gc.collect()
        torch.cuda.empty_cache()
        return None
    return largest(seconds, trial.device)


def largest(value: float, device: torch.device) -> float:
    """The largest of the ranks' values."""
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(shared, dist.ReduceOp.MAX)
    return shared.item()


def resident(device: torch.device) -> int:
    """The most bytes that this process has held on the device."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_resident()
