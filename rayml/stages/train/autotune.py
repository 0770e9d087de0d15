"""`train.autotune`: one knob after the other, timed on the real ranks before the first epoch.

Present and candidate stand side by side and take turns (A B B A), so that a machine that gets slower meanwhile is as
unkind to one as to the other; of each step the slowest rank's time counts. All ranks see the same times, so all choose
alike. The training then starts from nothing, so it is the one of a job that names the chosen values itself.
"""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from rayml.artifacts.durable import write_atomic
from rayml.errors import StageError
from rayml.stages.api import Emit
from rayml.stages.train.collective import from_first_rank, sum_over_ranks
from rayml.stages.train.knobs import KNOBS, Scene, candidates, turned
from rayml.stages.train.state import LoopConfig
from rayml.stages.train.strategies.base import Seat
from rayml.stages.train.trial import Trial

FILE = "autotune.json"
"""In the step's work folder, which outlives a crash."""

LEAST_GAIN = 1.03
TURN = 5
"""Steps of one side before it is the other's turn again."""
WARM_UP = 3


@dataclass(frozen=True)
class Comparison:
    """Present against candidate."""

    before_ms: float
    """Median step of the slowest rank."""
    after_ms: float
    gain: float
    """Median of the steps' ratios; above 1 the candidate is faster."""
    interval: tuple[float, float]
    finite: bool
    """Whether every loss of the candidate was a number."""

    @property
    def is_won(self) -> bool:
        return self.finite and self.gain >= LEAST_GAIN and self.interval[0] > 1


def tuned(config: LoopConfig, seat: Seat, emit: Emit) -> LoopConfig:
    """The configuration with the knobs that are faster here. Every rank calls it, also where the job does not ask."""
    if config.train["autotune"] is None:
        return config
    path = Path(config.checkpoints).parent / FILE
    if from_first_rank(int(path.exists()), seat.device):
        result = json.loads(path.read_text())
    else:
        result = search(config, seat, emit)
        if seat.rank == 0:
            write_atomic(path, json.dumps(result, indent=1).encode())
    emit("fact", name="autotune", value=result)
    emit("note", text=sentence(result))
    for knob, value in result["chosen"].items():
        config = turned(config, knob, value)
    return config


def search(config: LoopConfig, seat: Seat, emit: Emit) -> dict[str, Any]:
    """Every candidate with its times, what was chosen, and what all of it gains together. The same on every rank."""
    started = time.perf_counter()
    steps = config.train["autotune"]["steps"]
    best, best_config, chosen, rows = Trial(config, seat), config, dict[str, Any](), list[dict[str, Any]]()
    scene = look(best.training.model, seat)
    for knob in KNOBS:
        for value in candidates(knob, best_config, scene):
            row = {"knob": knob, "value": value}
            rows.append(row)
            refusal, trial = build(turned(best_config, knob, value), seat)
            if trial is None:
                row |= {"kept": False, "refusal": refusal}
                continue
            found = compare(best, trial, steps)
            row |= {**as_json(found), "kept": found.is_won}
            emit("note", text=f"autotune: {knob} {value}: {found.gain:.2f}x")
            if found.is_won:
                best, best_config, chosen[knob] = trial, trial.config, value
            del trial
            free_memory()
    together = as_json(compare(Trial(config, seat), best, steps)) if chosen else None
    del best
    free_memory()
    return {
        "steps": steps,
        "chosen": chosen,
        "together": together,
        "candidates": rows,
        "seconds": round(time.perf_counter() - started, 3),
    }


def look(model: nn.Module, seat: Seat) -> Scene:
    """What the candidates depend on, the same on every rank."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Scene(
        world_size=seat.world_size,
        gpu=seat.device.type == "cuda",
        cpus=from_first_rank(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, seat.device),
        gradient_bytes=sum(parameter.numel() * parameter.element_size() for parameter in trained),
        convolutions=any(isinstance(module, nn.Conv2d) for module in model.modules()),
    )


def build(config: LoopConfig, seat: Seat) -> tuple[str, Trial | None]:
    """A candidate; or why there is none, such as workers that share no memory. Every rank is refused alike."""
    if not has_room(seat):
        return "there is no room for a second model on the GPU", None
    try:
        return "", Trial(config, seat)
    except StageError as error:
        return error.what, None


def has_room(seat: Seat) -> bool:
    """Whether each rank's GPU can hold once more what it holds."""
    short = 0
    if seat.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(seat.device)
        short = int(free < torch.cuda.max_memory_reserved(seat.device))
    return not sum_over_ranks(torch.tensor(short, device=seat.device)).item()


def compare(present: Trial, candidate: Trial, steps: int) -> Comparison:
    """Time `steps` steps of each, in turns A B B A. Ends sooner where the candidate is slower beyond doubt."""
    sides = (present, candidate)
    seconds: tuple[list[float], list[float]] = ([], [])
    gains: list[float] = []
    finite = True
    for side in sides:
        take_turn(side, WARM_UP)
    for turn in range(-(-steps // TURN)):
        for place in (0, 1) if turn % 2 == 0 else (1, 0):
            take_turn(sides[place], 1)
            taken, losses_are_finite = take_turn(sides[place], TURN)
            seconds[place].extend(taken)
            finite &= losses_are_finite
        gains = [before / after for before, after in zip(*seconds, strict=True)]
        if interval(gains)[1] < 1:
            break
    before, after = (statistics.median(each) for each in seconds)
    return Comparison(1000 * before, 1000 * after, statistics.median(gains), interval(gains), finite)


def take_turn(trial: Trial, steps: int) -> tuple[list[float], bool]:
    """Seconds of each step of the slowest rank, and whether all losses were numbers."""
    torch.set_num_threads(trial.config.threads)
    taken = [trial.timed_step() for _ in range(steps)]
    bad = not math.isfinite(torch.stack([loss for _, loss in taken]).sum().item())
    slowest = torch.tensor([*(seconds for seconds, _ in taken), bad], dtype=torch.float64, device=trial.device)
    if dist.is_initialized():
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
    *seconds, bad_anywhere = slowest.tolist()
    return seconds, not bad_anywhere


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median lies with 95 %: two of the values themselves, by the binomial distribution of the signs."""
    ordered, count = sorted(values), len(values)
    below, first = 0.0, 0
    while (below := below + math.comb(count, first) / 2**count) <= 0.025:
        first += 1
    first = max(0, first - 1)
    return ordered[first], ordered[count - 1 - first]


def as_json(found: Comparison) -> dict[str, Any]:
    """A comparison as the report shows it."""
    low, high = found.interval
    return {
        "before_ms": round(found.before_ms, 4),
        "after_ms": round(found.after_ms, 4),
        "gain": round(found.gain, 4),
        "interval": [round(low, 4), round(high, 4)],
    }


def free_memory() -> None:
    """Give back what a candidate held: models and optimizers refer to each other in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def sentence(result: dict[str, Any]) -> str:
    """What was chosen, as a person reads it and can type it."""
    if not result["chosen"]:
        return "autotune: nothing that was tried is faster here"
    keys = " ".join(f"train.{knob}={json.dumps(value).strip(chr(34))}" for knob, value in result["chosen"].items())
    together = result["together"]
    times = f"{together['before_ms']:.2f} to {together['after_ms']:.2f} ms a step"
    return f"autotune: {together['gain']:.2f}x, {times}, with {keys}"
