"""Real steps of a strategy on gloo ranks, with every allocation of tensor memory written down by torch.profiler."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from stages.train.ranks import FACTS, PROCESSES

from rayml.ml.schema import ImageFeature, Normalization, Schema
from rayml.plan.plan import ClusterPlan
from rayml.plan.training import resolve_train
from rayml.spec.job import JobSpec

SCHEMA = Schema(
    feature=ImageFeature(height=64, width=64, channels=3),
    label="Gattung",
    classes=("Ahorn", "Buche", "Eiche", "Föhre", "Lärche", "Weißdorn", "Ulme"),
    normalization=Normalization(offset=(110.0,) * 3, scale=(60.0,) * 3),
)
MODELS = {
    "mlp": {"kind": "mlp", "hidden": [1000, 1000, 1000]},
    "small_cnn": {"kind": "small_cnn", "width": 64},
    "transformer": {"kind": "transformer", "width": 256, "depth": 6, "heads": 4, "patch": 8},
    "resnet18": {"kind": "torchvision", "name": "resnet18"},
}
STEPS = 3
BUCKET_ELEMENTS = 16_000_000


def resolved(model: str, strategy: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The train step's configuration as the plan resolves it, for 2 workers unless the strategy is one process."""
    workers = 1 if strategy["kind"] == "local" else 2
    job = JobSpec.model_validate(
        {
            "name": "speicher",
            "data": {"source": {"kind": "sklearn", "name": "digits"}},
            "task": {"kind": "image_classification"},
            "model": MODELS[model],
            "train": {"workers": workers, "strategy": strategy, "batch_size": 64, **changes},
        }
    )
    config, _, _ = resolve_train(job, ClusterPlan(cpus=2, gpus=0, object_store=0), FACTS)
    if strategy["kind"] == "deepspeed":
        # The default is 2 GB, beside which nothing else would be seen.
        config["strategy"]["document"]["zero_optimization"]["reduce_bucket_size"] = BUCKET_ELEMENTS
    return config


def measured_peak(train: dict[str, Any], work: Path, timeout: float = 240) -> int:
    """Bytes of tensor memory of the rank that held most when it did, its model's making with it."""
    ears, mouth = PROCESSES.Pipe(duplex=False)
    workers = train["workers"]
    ranks = [PROCESSES.Process(target=take_steps, args=(train, rank, work, mouth)) for rank in range(workers)]
    for process in ranks:
        process.start()
    mouth.close()
    try:
        assert ears.poll(timeout), "no rank has said anything"
        return max(ears.recv() for _ in ranks)
    except EOFError:
        raise AssertionError((work / "errors.log").read_text()[-3000:]) from None
    finally:
        for process in ranks:
            process.join(timeout / 10)
            process.kill()
            process.join()


def take_steps(train: dict[str, Any], rank: int, work: Path, mouth: Connection) -> None:
    import torch
    import torch.distributed as dist
    from torch.profiler import ProfilerActivity, profile

    from rayml.stages.train.estimate import ignore, loop_config, make_batches
    from rayml.stages.train.setup import build_recipe, make_model
    from rayml.stages.train.strategies.base import Seat
    from rayml.stages.train.strategies.table import build_strategy

    os.dup2(os.open(work / "errors.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    torch.set_num_threads(1)
    if train["strategy"]["kind"] != "local":
        dist.init_process_group(
            "gloo", init_method=f"file://{work / 'meeting'}", rank=rank, world_size=train["workers"]
        )
    device = torch.device("cpu")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        strategy = build_strategy(train["strategy"], Seat(rank, train["workers"], device))
        model = make_model(loop_config(train, None), SCHEMA, ignore)
        strategy.prepare(model, build_recipe(train, SCHEMA, [1] * len(SCHEMA.classes), None))
        for _ in range(STEPS):
            batches = make_batches(train, SCHEMA, strategy.data_size, device)
            for batch in batches:
                batch.features.random_(0, 255)
                batch.labels.zero_()
            strategy.step(batches)
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    mouth.send(peak)
    os._exit(0)
