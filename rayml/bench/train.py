"""`rayml bench train`: the steady state of rayml's training loop against a torchrun DDP loop written by hand."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rayml.bench import first_step
from rayml.bench.harness import Contest, Goal, Row, compete
from rayml.bench.player import Player
from rayml.bench.train_settings import TrainSettings
from rayml.ml.schema import ImageFeature, Normalization, Schema
from rayml.ml.shards import save_schema, shard_name, write_shard

LOADER_WORKERS = (0, 1)
CHOICE_LAPS = 3
"""Laps of each of the alternative's loaders, in turn, whose medians choose between them."""
SAME_LOSS = 1e-6
ALIKE_LOSS = 0.05
"""How far losses may be apart after the same rows with other orders of sums, or in bf16."""
RANKS = 2

BY_HAND = {
    "ddp": "rayml.bench.torchrun_ddp",
    "fsdp": "rayml.bench.torchrun_ddp",
    "deepspeed": "rayml.bench.deepspeed_by_hand",
}
"""Kind of strategy to the alternative's module."""
SMALL_CNN = {"kind": "small_cnn", "width": 32, "dropout": 0.0}
MLP = {"kind": "mlp", "hidden": [256, 128], "dropout": 0.0}
RESNET = {"kind": "torchvision", "name": "resnet18", "norm": "batch", "small_images": False, "resize": None}


@dataclass(frozen=True)
class Load:
    """What a row trains on."""

    name: str
    rows: int
    pairs: int
    epochs_per_lap: int = 1
    launcher: str = "processes"
    model: dict[str, Any] = field(default_factory=lambda: SMALL_CNN)
    strategy: dict[str, Any] = field(default_factory=lambda: {"kind": "ddp"})
    blocks: tuple[str, ...] = ()
    side: int = 8
    """Height and width of the images."""
    batch_size: int = 64
    autotune: bool = False
    """Ours is tuned, and the alternative is rayml as it comes."""
    goal: float = 1.0


LOADS = {
    "quick": (Load("ddp small cnn", rows=12_800, pairs=7),),
    "full": (
        Load("ddp small cnn", rows=40_000, pairs=20),
        Load("ddp small cnn, 1,437 rows", rows=1_437, epochs_per_lap=10, pairs=20),
        Load("ddp small cnn, Ray Train", rows=40_000, pairs=10, launcher="ray_train"),
        Load("ddp resnet18", rows=1_024, pairs=6, model=RESNET, side=64, batch_size=32),
        Load(
            "fsdp resnet18",
            rows=1_024,
            pairs=6,
            model=RESNET,
            strategy={"kind": "fsdp"},
            blocks=("BasicBlock",),
            side=64,
            batch_size=32,
            goal=0.98,
        ),
        Load(
            "deepspeed zero2 mlp",
            rows=12_800,
            pairs=10,
            model=MLP,
            strategy={"kind": "deepspeed", "zero_stage": 2},
            goal=0.98,
        ),
        Load("autotuned small cnn", rows=40_000, pairs=20, autotune=True, goal=1.1),
    ),
}
"""1,437 rows are the digits' own training split: epochs of a few tenths of a second, each with a checkpoint."""

FIRST_STEP = first_step.NAME
FIRST_STEP_PAIRS = {"quick": 0, "full": 10}


def names(mode: str) -> list[str]:
    """The rows of a mode."""
    return [load.name for load in LOADS[mode]] + ([FIRST_STEP] if FIRST_STEP_PAIRS[mode] else [])


def run(mode: str, say: Callable[[str], None], wanted: Collection[str]) -> list[Row]:
    """Measure the rows that are wanted."""
    loads = [load for load in LOADS[mode] if load.name in wanted]
    with tempfile.TemporaryDirectory(prefix="rayml-bench-") as folder:
        rows = [measure(load, Path(folder) / str(place), say) for place, load in enumerate(loads)]
        if FIRST_STEP in wanted:
            rows.append(first_step.measure(Path(folder) / "first-step", FIRST_STEP_PAIRS[mode], say))
        return rows


def measure(load: Load, folder: Path, say: Callable[[str], None]) -> Row:
    """One row: both sides are started, then take turns at the machine, each stopped while the other runs."""
    data = folder / "data"
    made_rows(data, load.rows, load.side)
    settings = TrainSettings(
        data=data,
        folder=folder / "rayml",
        laps=1 + CHOICE_LAPS + 1 + load.pairs,
        epochs_per_lap=load.epochs_per_lap,
        rows=load.rows,
        batch_size=load.batch_size,
        model=load.model,
        strategy=load.strategy,
        blocks=load.blocks,
        ranks=RANKS,
        launcher=load.launcher,
        recipe={"autotune": True} if load.autotune else {},
    )
    limit = bare_speed(settings)
    say(f"{load.name}: without communication or loading {limit:,.0f} samples/s")
    with ExitStack() as stack:
        sides = untuned(settings, folder) if load.autotune else best_torchrun(settings, folder, say)
        alternative, alternative_is = stack.enter_context(sides)
        ours = stack.enter_context(player("rayml", settings, "rayml.bench.rayml_loop"))
        for _ in range(1 + CHOICE_LAPS):
            ours.lap()
        for path in settings.folder.rglob("autotune.json"):
            say(f"{load.name}: chose {json.dumps(json.loads(path.read_text())['chosen'])}")
        contest = Contest(
            name=load.name,
            unit="samples/s",
            better="more",
            ours=ours.lap,
            alternative=alternative.lap,
            alternative_is=alternative_is,
            check=check_of(load),
            goal=Goal(load.goal, "ratio"),
            limit=limit,
            limit_is=f"{RANKS} processes with tensors at hand, no communication",
        )
        return compete(contest, load.pairs, warm_up=1, say=say)


def made_rows(folder: Path, rows: int, side: int = 8, val_rows: int | None = None) -> None:
    """Canonical shards of scikit-learn's digits, repeated until there are enough; a tenth as many to validate on.

    Where `side` is more than 8, each point becomes a square of points.
    """
    val_rows = rows // 10 if val_rows is None else val_rows
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]
    images = images.repeat(side // 8, axis=1).repeat(side // 8, axis=2)
    folder.mkdir(parents=True)
    first = 0
    for split, count in (("train", rows), ("val", val_rows)):
        ids = np.arange(first, first + count)
        places = ids % len(images)
        write_shard(folder / shard_name(split, 0), ids, images[places], digits.target[places].astype(np.int64))
        first += count
    save_schema(
        folder,
        Schema(
            feature=ImageFeature(height=side, width=side, channels=1),
            label="label",
            classes=tuple(str(name) for name in digits.target_names),
            normalization=Normalization(offset=(float(images.mean()),), scale=(float(images.std()),)),
        ),
    )


def bare_speed(settings: TrainSettings) -> float:
    """Samples per second of one process per rank at the same time, which do nothing but forward, backward and step."""
    path = settings.model_copy(update={"folder": settings.folder.with_name("bare")}).save()
    argv = [sys.executable, "-m", "rayml.bench.bare_loop", str(path)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(settings.ranks)
        ]
        for process in processes:
            assert process.stdout is not None, "it was asked for"
            assert process.stdout.readline() == "ready\n", "the bare loop did not start"
        return sum(float(process.communicate("\n")[0]) for process in processes)


@contextmanager
def untuned(settings: TrainSettings, folder: Path) -> Iterator[tuple[Player, str]]:
    """rayml with its defaults."""
    defaults = settings.model_copy(update={"folder": folder / "untuned", "recipe": {}})
    with player("rayml untuned", defaults, "rayml.bench.rayml_loop") as side:
        for _ in range(1 + CHOICE_LAPS):
            side.lap()
        yield side, "rayml with its defaults"


@contextmanager
def best_torchrun(settings: TrainSettings, folder: Path, say: Callable[[str], None]) -> Iterator[tuple[Player, str]]:
    """The faster one of the alternative's loaders, with what it is; the other is ended."""
    with ExitStack() as stack:
        candidates = []
        for workers in LOADER_WORKERS:
            changes = {"folder": folder / f"torchrun-{workers}", "loader_workers": workers}
            side = player("torchrun", settings.model_copy(update=changes), BY_HAND[settings.strategy["kind"]])
            candidates.append(stack.enter_context(side))
            side.lap()
        rounds = [[candidate.lap().value for candidate in candidates] for _ in range(CHOICE_LAPS)]
        speeds = [statistics.median(values) for values in zip(*rounds, strict=True)]
        for workers, speed in zip(LOADER_WORKERS, speeds, strict=True):
            say(f"torchrun, DataLoader with {workers} workers: {speed:,.0f} samples/s")
        best = speeds.index(max(speeds))
        for place, candidate in enumerate(candidates):
            if place != best:
                candidate.end(kindly=False)
        kind, workers = settings.strategy["kind"], LOADER_WORKERS[best]
        yield candidates[best], f"torchrun, {kind} written by hand, DataLoader with {workers} workers"


def player(name: str, settings: TrainSettings, module: str) -> Player:
    """Start a side. torchrun gives each rank one OpenMP thread by itself; Ray is told the same."""
    path = settings.save()
    launcher = [sys.executable, "-m"]
    if name == "torchrun":
        launcher += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(settings.ranks), "-m"]
    rows = settings.rows * settings.epochs_per_lap
    environment = {"OMP_NUM_THREADS": str(settings.threads)}
    return Player(name, [*launcher, module, str(path)], settings.folder, rows, environment)


def check_of(load: Load) -> Callable[[Any, Any], str | None]:
    """What the two sides of a row have to have in common."""
    if load.autotune:
        return alike
    return same_losses if load.model is SMALL_CNN else same_training


def alike(ours: list[dict[str, Any]], alternative: list[dict[str, Any]]) -> str | None:
    """Whether every epoch of a lap saw the same rows, and had losses that are no further apart than ALIKE_LOSS."""
    for mine, other in zip(ours, alternative, strict=True):
        if mine["rows"] != other["rows"] or abs(mine["loss"] - other["loss"]) > ALIKE_LOSS:
            texts = (f"{side['rows']} rows and the loss {side['loss']:.4f}" for side in (mine, other))
            return "an epoch had {}, and {} by the alternative".format(*texts)
    return None


def same_training(ours: list[dict[str, Any]], alternative: list[dict[str, Any]]) -> str | None:
    """Whether every epoch of a lap saw the same rows and had the same losses in training.

    With batch norm the losses of validation differ: by hand each rank validates with statistics of its own.
    """
    return same_losses(ours, alternative, ("rows", "loss"))


def same_losses(
    ours: list[dict[str, Any]], alternative: list[dict[str, Any]], keys: Sequence[str] = ("rows", "loss", "val_loss")
) -> str | None:
    """Whether every epoch of a lap ended with the same rows seen and the same losses."""
    close = partial(math.isclose, rel_tol=SAME_LOSS)
    for mine, other in zip(ours, alternative, strict=True):
        for key in keys:
            if not close(mine[key], other[key]):
                return f"an epoch's {key} is {mine[key]!r}, and {other[key]!r} by the alternative"
    return None
