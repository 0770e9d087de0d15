"""`train.profile`: watches some steps from outside the loop, by the clock and with torch.profiler.

The strategy and the training split are handed to the loop inside watched ones, so that a loop without a profile has
nothing of it. The shares of a step come from steps that only the clock watches; torch.profiler, which slows a step
down, says how the time inside a step divides.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.profiler import profile, record_function, schedule

from rayml.stages.api import Emit
from rayml.stages.train.memory import peak_memory
from rayml.stages.train.setup import Training
from rayml.stages.train.shares import (
    PARTS,
    bottleneck,
    gpu_shares,
    inside_step,
    mean_shares,
    shares_of_step,
    with_checkpoint,
)
from rayml.stages.train.strategies.base import MicroBatch, TrainingState
from rayml.stages.train.trace import READ, STEP, activities, operators, read_trace

WARM_UP = 1
"""Steps that torch.profiler sees and does not write down."""


def watch(training: Training, emit: Emit) -> tuple[Training, Emit]:
    """Both as they are where the job asks for no profile; else, in their place, what watches them.

    Every rank calls it, and the ranks exchange what they saw at the end of an epoch.
    """
    if training.config.profile is None:
        return training, emit
    watcher = Watcher(training, emit)
    watched = replace(
        training,
        strategy=WatchedStrategy(training.strategy, watcher),
        train_set=WatchedSet(training.train_set, watcher),  # type: ignore[arg-type]  # it does all that a ShardSet does
    )
    return watched, watcher.emit


class WatchedSet:
    """The training split; tells when rows are read."""

    def __init__(self, rows: Any, watcher: Watcher) -> None:
        self._rows, self._watcher = rows, watcher

    def __len__(self) -> int:
        return len(self._rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def gather(self, indices: NDArray[np.int64]) -> Any:
        self._watcher.enter("read")
        return self._rows.gather(indices)


class WatchedStrategy:
    """The strategy; tells when it steps, predicts and hands out its state."""

    def __init__(self, strategy: Any, watcher: Watcher) -> None:
        self._strategy, self._watcher = strategy, watcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)

    def step(self, batches: Sequence[MicroBatch]) -> Tensor:
        self._watcher.enter("step")
        loss: Tensor = self._strategy.step(batches)
        self._watcher.enter("other")
        self._watcher.count_step()
        return loss

    def predict(self, features: Tensor) -> Tensor:
        self._watcher.enter("pause")
        logits: Tensor = self._strategy.predict(features)
        return logits

    def state(self) -> TrainingState:
        self._watcher.enter("checkpoint")
        state: TrainingState = self._strategy.state()
        return state


class Watcher:
    """Knows what the loop does at each moment, and for how long it has done each."""

    def __init__(self, training: Training, emit: Emit) -> None:
        config = training.config
        assert config.profile is not None, "without a profile nobody watches"
        self.config, self.settings, self.seat, self._emit = config, config.profile, training.seat, emit
        self.steps_per_epoch: int = -(-len(training.train_set) // config.train["batch_size"])
        self.steps = self.step_of_epoch = self.traced = 0
        self.seconds = dict.fromkeys(("read", "step", "other", "checkpoint"), 0.0)
        self.checkpoints = 0
        self.doing, self.since = "pause", time.perf_counter()
        self.clocked = False
        self.profiler: profile | None = None
        self.range: record_function | None = None
        self.seen: dict[str, Any] | None = None
        self.told = False

    def enter(self, what: str) -> None:
        """The loop goes on to something else."""
        if what == self.doing:
            return
        now = time.perf_counter()
        if self.doing == "checkpoint":
            self.seconds["checkpoint"] += now - self.since
            self.checkpoints += 1
        # What comes after an epoch's last step, and is not followed by the next one's reading, belongs to the epoch.
        elif self.clocked and self.doing != "pause" and (self.doing, what) != ("other", "pause"):
            self.seconds[self.doing] += now - self.since
        self.doing, self.since = what, now
        self.mark(what)

    def mark(self, what: str) -> None:
        """Leave a mark in the trace."""
        if self.range is not None:
            self.range.__exit__(None, None, None)
            self.range = None
        name = {"read": READ, "step": STEP}.get(what)
        if self.profiler is not None and name is not None:
            self.range = record_function(name)
            self.range.__enter__()  # type: ignore[no-untyped-call]

    def count_step(self) -> None:
        """After each step: some are waited for, some are timed, then some are traced."""
        self.steps += 1
        self.step_of_epoch += 1
        wait, steps = self.settings["wait"], self.settings["steps"]
        if self.profiler is not None:
            self.profiler.step()
            self.traced += 1
            if self.traced == WARM_UP + steps:
                self.finish_trace()
        elif self.steps == wait:
            self.synchronize()
            self.clocked, self.since = True, time.perf_counter()
        elif self.steps >= wait + steps and self.seen is None:
            if self.clocked:
                self.synchronize()
                self.enter("pause")
                self.clocked = False
            if self.can_trace():
                self.start_trace()

    def can_trace(self) -> bool:
        """Whether the trace ends before the epoch does, so that no validation comes into it; no matter if none can."""
        needed: int = WARM_UP + self.settings["steps"]
        return needed <= self.steps_per_epoch - self.step_of_epoch or self.steps_per_epoch <= needed

    def start_trace(self) -> None:
        """Let torch.profiler look on from the next step."""
        self.memory = peak_memory(self.seat.device)
        plan = schedule(wait=0, warmup=WARM_UP, active=self.settings["steps"], repeat=1)
        self.profiler = profile(activities=activities(self.seat.device), schedule=plan)
        self.profiler.start()

    def synchronize(self) -> None:
        if self.seat.device.type == "cuda":
            torch.cuda.synchronize(self.seat.device)

    def finish_trace(self) -> None:
        """Read the trace; the first rank's is kept as a file."""
        assert self.profiler is not None, "it was started before"
        profiler, self.profiler = self.profiler, None
        profiler.stop()
        self.seen = {
            "trace": read_trace(profiler, self.seat.device),
            "operators": operators(profiler, self.settings["steps"], self.seat.device),
        }
        if self.seat.rank == 0:
            profiler.export_chrome_trace(self.settings["trace"])

    def emit(self, kind: str, **fields: Any) -> None:
        """Hand an event on. The one of an epoch comes after its checkpoint: by then all has been seen."""
        self._emit(kind, **fields)
        if kind != "epoch":
            return
        self.enter("pause")
        self.step_of_epoch = 0
        if self.seen is not None and not self.told:
            self.told = True
            self.tell()
        elif self.seen is None and fields["epoch"] == fields["epochs"]:
            needed = self.settings["wait"] + 2 * self.settings["steps"] + WARM_UP
            had = f"it needs at least {needed} steps, and this training had {self.steps}"
            self._emit("note", text=f"no profile: {had}; lower train.profile.steps")

    def tell(self) -> None:
        """Put together what all ranks saw; the first one tells it."""
        assert self.seen is not None, "there was a trace"
        shares, step_s = self.own_shares()
        workers = gather_workers(shares, self.memory, self.seat.device)
        policy = {"every_steps": self.config.every_steps, "gpu": self.seat.device.type == "cuda"}
        each = [worker["shares"] for worker in workers]
        found = {
            "steps": self.settings["steps"],
            "step_ms": 1000 * step_s,
            "shares": mean_shares(each),
            "workers": workers,
            "operators": self.seen["operators"],
            "bottleneck": bottleneck(each, self.config.train, policy),
            "trace": Path(self.settings["trace"]).name,
        }
        self._emit("profile", **found)
        self._emit("fact", name="profile", value=found)

    def own_shares(self) -> tuple[dict[str, float], float]:
        """This rank's shares, and the seconds of a step with its part of the checkpoints."""
        assert self.seen is not None, "there was a trace"
        steps = self.settings["steps"]
        seconds = {name: self.seconds[name] / steps for name in ("read", "step", "other")}
        between = self.config.every_steps or self.steps_per_epoch
        checkpoint = self.seconds["checkpoint"] / self.checkpoints / between
        step_s = sum(seconds.values())
        if self.seat.device.type == "cuda":
            return with_checkpoint(gpu_shares(self.seen["trace"]), step_s, checkpoint), step_s + checkpoint
        inside = inside_step(self.seen["trace"])
        return shares_of_step({**seconds, "checkpoint": checkpoint}, inside), step_s + checkpoint


def gather_workers(shares: dict[str, float], memory: dict[str, int], device: torch.device) -> list[dict[str, Any]]:
    """Shares and peak memory of every rank, on every rank."""
    own = torch.tensor([*(shares[name] for name in PARTS), *memory.values()], dtype=torch.float64, device=device)
    rows = [own]
    if dist.is_initialized():
        rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, own)
    return [
        {
            "rank": rank,
            "shares": dict(zip(PARTS, row[: len(PARTS)].tolist(), strict=True)),
            "memory": dict(zip(memory, (int(each) for each in row[len(PARTS) :].tolist()), strict=True)),
        }
        for rank, row in enumerate(rows)
    ]
