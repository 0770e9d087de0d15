"""A data step to run on small files that the tests write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rayml.plan.plan import ClusterPlan, Plan, Resources, Step
from rayml.stages.api import Context, Outcome

DEFAULTS: dict[str, Any] = {
    "label": "label",
    "image": {"size": "auto", "channels": "auto"},
    "columns": "auto",
    "normalize": "standard",
    "missing": "error",
    "split": {"train": 0.8, "val": 0.1, "test": 0.1, "stratify": "label"},
    "shard_rows": 65536,
    "seed": 7,
    "task": "tabular_classification",
    "fingerprint": "0" * 32,
}

RunData = Callable[..., tuple[Outcome, Path]]


@contextmanager
def _ray(cpus: int) -> Iterator[None]:
    import ray

    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture
def start_ray() -> Callable[[int], AbstractContextManager[None]]:
    """`with start_ray(cpus):`."""
    return _ray


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    with _ray(2):
        yield


@pytest.fixture
def run_data(tmp_path: Path) -> RunData:
    """`run_data(source, **config)` runs the step in `tmp_path` and gives the outcome and the folder of shards."""
    from rayml.stages.data.stage import run

    runs = 0

    def call(
        source: dict[str, Any], code: Path | None = None, sent: str | None = None, **config: Any
    ) -> tuple[Outcome, Path]:
        nonlocal runs
        runs += 1
        out = tmp_path / f"out-{runs}"
        out.mkdir()
        step = Step(
            name="data",
            config={**DEFAULTS, "source": source, **config},
            policy={} if sent is None else {"sent": sent},
            inputs={},
            code="c",
            key="k",
            resources=Resources(),
        )
        plan = Plan(
            rayml="0",
            job="test",
            seed=7,
            job_file="job.yaml",
            base=str(tmp_path),
            code=str(code) if code else None,
            cluster=ClusterPlan(cpus=2, gpus=0, object_store=200_000_000),
            steps=(step,),
        )
        context = Context(plan, "run", tmp_path, out, tmp_path / "work", lambda kind, **fields: None)
        return run(step, {}, context), out

    return call
