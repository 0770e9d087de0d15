"""A real autoscaling Ray cluster for tests: the fixture `autoscaling_run`, which conftest.py hands to all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayml.plan.plan import ClusterPlan, NodesPlan, Plan
from rayml.run.session import Session

MOST = 2
"""Nodes of the fixture's cluster at most, of one CPU each beside a head of one CPU."""


def autoscaling_plan(*, least: int = 0, most: int = MOST, idle_s: float = 5.0, object_store: int = 2**28) -> Plan:
    """A plan without steps on a head of one CPU and nodes of one CPU."""
    nodes = NodesPlan(min=least, max=most, cpus=1, gpus=0, idle_s=idle_s, price_per_hour=0.5)
    cluster = ClusterPlan(cpus=1, gpus=0, object_store=object_store, price_per_hour=1.0, nodes=nodes)
    return Plan(rayml="", job="nodes", seed=0, job_file="", base="", code=None, cluster=cluster, steps=())


@pytest.fixture(scope="module")
def autoscaling_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run folder of a session whose cluster is up and joined, with no node yet beside the head."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    session = Session(autoscaling_plan(), folder)
    try:
        session.start(lambda **_: None)
        yield folder
    finally:
        session.stop()


def nodes() -> set[str]:
    """Ids of the living nodes beside the head."""
    import ray

    living = (node for node in ray.nodes() if node["Alive"])
    return {node["NodeID"] for node in living if "node:__internal_head__" not in node["Resources"]}


def until(holds: Callable[[], bool], what: str, patience_s: float = 120.0) -> None:
    """Wait for something; the patience is what a busy machine may need, and no measurement."""
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {patience_s:.0f} s for {what}"
        time.sleep(0.1)
