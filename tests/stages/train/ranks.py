"""Runs the training loop on several gloo ranks without Ray: the loop is the same, and it starts in a second."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np

from rayml.ml.schema import ImageFeature, Normalization, Schema
from rayml.ml.shards import write_shard
from rayml.plan.facts import GIB, Facts
from rayml.plan.plan import ClusterPlan
from rayml.plan.training import resolve_train
from rayml.spec.job import JobSpec

# One process imports torch; every rank is forked from it, so that a test costs tenths of a second and not seconds.
PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = (
    "rayml.stages.train.launchers.preloaded",
    "rayml.ml.networks",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.distributed.pipelining",
    "deepspeed",
)
os.environ.setdefault("DS_ACCELERATOR", "cpu")
PROCESSES.set_forkserver_preload(list(PRELOADED))

FACTS = Facts(cpus=2, gpus=0, memory=8 * GIB, source="", code={})


def run_rank(settings: dict[str, Any], rank: int, world_size: int, port: int) -> None:
    """One rank, in a process of its own. `die_at` kills it before its n-th training step."""
    import torch
    import torch.distributed as dist

    from rayml.stages.train.rank import act
    from rayml.stages.train.state import LoopConfig
    from rayml.stages.train.strategies.base import Seat
    from rayml.stages.train.strategies.eager import Eager

    settings = dict(settings)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    errors = os.open(settings.pop("errors"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    if settings["train"]["strategy"]["kind"] != "local":
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
    events = open(settings.pop("events"), "a", buffering=1)  # noqa: PTH123, SIM115 (closed by the end of the process)
    die_at = settings.pop("die_at", None)

    def emit(kind: str, **fields: Any) -> None:
        if rank == 0:
            events.write(json.dumps({"kind": kind, **fields}, default=float) + "\n")

    if die_at is not None and rank == die_at["rank"]:
        original, calls = Eager.step, iter(range(1, 10**6))

        def deadly(*args: Any, **kwargs: Any) -> torch.Tensor:
            if next(calls) == die_at["call"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        Eager.step = deadly
    act(LoopConfig(**settings), Seat(rank, world_size, torch.device("cpu")), emit)
    if dist.is_initialized():
        dist.destroy_process_group()


def make_shards(folder: Path, train: int = 70, val: int = 20, classes: int = 3, shard_rows: int = 1000) -> Path:
    """Small images whose class can be learnt: class c is bright in column c."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    schema = Schema(
        feature=ImageFeature(height=6, width=5, channels=1),
        label="label",
        classes=tuple("abcdefgh"[:classes]),
        normalization=Normalization(offset=(60.0,), scale=(40.0,)),
    )
    (folder / "schema.json").write_text(schema.model_dump_json())
    first_id = 1000
    for split, rows in (("train", train), ("val", val), ("test", 10)):
        labels = rng.integers(0, classes, rows)
        images = rng.integers(0, 120, (rows, 6, 5, 1)).astype(np.uint8)
        images[np.arange(rows), :, labels] += 100
        ids = np.arange(first_id, first_id + rows, dtype=np.int64) * 7919
        first_id += rows
        for number, start in enumerate(range(0, rows, shard_rows)):
            part = slice(start, start + shard_rows)
            write_shard(folder / f"{split}-{number:05}.arrow", ids[part], images[part], labels[part])
    return folder


def loop_settings(data: Path, work: Path, **changes: Any) -> dict[str, Any]:
    """What a rank is given. Changes go to the train section where it has such a key, else to the loop's own values."""
    train = train_settings()
    settings = {
        "every_steps": 0,
        "keep": 2,
        "threads": 1,
        "data": str(data),
        "checkpoints": str(work / "checkpoints"),
        "code": None,
        "events": str(work / "events.jsonl"),
        "errors": str(work / "errors.log"),
    }
    train |= {key: value for key, value in changes.items() if key in train}
    settings |= {key: value for key, value in changes.items() if key not in train}
    return {**settings, "train": train}


def train_settings() -> dict[str, Any]:
    """A resolved train section: the plan's own, of a small job."""
    job = JobSpec.model_validate(
        {
            "name": "loop",
            "seed": 7,
            "data": {"source": {"kind": "sklearn", "name": "digits"}},
            "task": {"kind": "image_classification"},
            "model": {"kind": "small_cnn", "width": 8, "dropout": 0.2},
            "train": {"workers": 2, "epochs": 3, "batch_size": 16, "optimizer": {"kind": "adamw", "lr": 0.01}},
        }
    )
    config, _, _ = resolve_train(job, ClusterPlan(cpus=2, gpus=0, object_store=0), FACTS)
    return config


def run_ranks(settings: dict[str, Any], world_size: int, timeout: float = 120) -> list[int]:
    """The exit codes of the ranks. Those that wait for a dead one are ended once it is gone."""
    Path(settings["checkpoints"]).mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [PROCESSES.Process(target=run_rank, args=(settings, rank, world_size, port)) for rank in range(world_size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in ranks]
