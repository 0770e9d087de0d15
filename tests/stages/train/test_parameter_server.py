"""The asynchronous mode: it learns, nobody runs away, and it goes on from what it saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from stages.train.ranks import loop_settings, make_shards

from rayml.ml.checkpoint import newest_checkpoint
from rayml.plan.plan import ClusterPlan, Plan, Resources
from rayml.run.session import Session
from rayml.stages.train.launchers.base import Order
from rayml.stages.train.launchers.ray_train import fit

pytestmark = pytest.mark.ray
MLP = {"kind": "mlp", "hidden": [16], "dropout": 0.0}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Train two workers with some staleness; the last checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    data = make_shards(tmp_path_factory.mktemp("data") / "shards", train=200, val=60)
    cluster = ClusterPlan(cpus=2, gpus=0, object_store=100 * 2**20)
    session = Session(
        Plan(rayml="", job="server", seed=0, job_file="", base="", code=None, cluster=cluster, steps=()), folder
    )
    session.start(lambda **_: None)

    def run(work: Path, staleness: int, **changes):
        strategy = {"kind": "parameter_server", "staleness": staleness}
        settings = loop_settings(data, work, strategy=strategy, model=MLP, **changes)
        loop = {key: settings[key] for key in settings if key not in ("events", "errors")}
        Path(loop["checkpoints"]).mkdir(parents=True, exist_ok=True)
        fit(Order(loop, Resources(workers=2), work / "logs", work / "launcher", work.name), lambda kind, **fields: None)
        return newest_checkpoint(work / "checkpoints")[0]

    yield run
    session.stop()


def test_it_keeps_the_bound_goes_on_from_what_it_saved_and_reaches_the_gate(train, tmp_path):
    first = train(tmp_path, 0, epochs=1)
    assert first.state["strategy"]["furthest_ahead"] == 0
    last = train(tmp_path, 3, epochs=4)
    assert last.state["strategy"]["furthest_ahead"] <= 3
    history = last.state["history"]
    assert history[0] == first.state["history"][0]
    assert [record["rows_seen"] for record in history] == [200] * 4
    assert history[-1]["val/accuracy"] > 0.8
    steps = last.tensors("optimizer")["network.1.weight.step"].item()
    assert steps == 2 * 4 * 13, "each worker made a step for each of the 13 batches of an epoch"
