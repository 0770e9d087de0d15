"""Every launcher: the same training, the same words for what goes wrong, and no process left."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from stages.train.ranks import loop_settings, make_shards

from rayml.errors import StageError, WorkerLost
from rayml.ml.checkpoint import newest_checkpoint
from rayml.plan.plan import ClusterPlan, Plan, Resources
from rayml.run.session import Session
from rayml.stages.train.launchers.base import Order
from rayml.stages.train.launchers.table import load_launcher


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    cluster = ClusterPlan(cpus=2, gpus=0, object_store=100 * 2**20)
    plan = Plan(rayml="", job="launchers", seed=0, job_file="", base="", code=None, cluster=cluster, steps=())
    session = Session(plan, folder)
    session.start(lambda **_: None)
    yield
    session.stop()


@pytest.fixture(params=["processes", pytest.param("ray_train", marks=pytest.mark.ray)])
def launch(request, tmp_path, data):
    """Train two ranks; the events, and what was raised."""
    if request.param == "ray_train":
        request.getfixturevalue("ray")

    def run(name="work", meanwhile=lambda logs: None, **changes):
        work = tmp_path / name
        settings = loop_settings(data, work, **changes)
        loop = {key: settings[key] for key in settings if key not in ("events", "errors")}
        Path(loop["checkpoints"]).mkdir(parents=True)
        order = Order(loop, Resources(workers=2), logs=work / "logs", storage=work / "launcher", run=f"run-{name}")
        heard = []
        helper = threading.Thread(target=meanwhile, args=(order.logs,))
        helper.start()
        try:
            load_launcher(request.param)(order, lambda kind, **fields: heard.append({"kind": kind, **fields}))
        finally:
            helper.join()
        return heard, newest_checkpoint(work / "checkpoints")[0]

    return run


def rank_process(logs: Path, rank: int) -> int:
    """The process id that a rank wrote into its log."""
    path = logs / f"train-rank-{rank}.log"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and "process" in path.read_text():
            return int(path.read_text().split("process")[1].split()[0])
        time.sleep(0.05)
    raise AssertionError(f"rank {rank} did not start")


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


OWN_MODEL = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(30, 3)
    def forward(self, x):
        {body}
        return self.linear(x.flatten(1))
def build(schema):
    return Net()
"""


def own_model(folder: Path, body: str) -> dict:
    (folder / "mine.py").write_text(OWN_MODEL.format(body=body))
    return {"model": {"kind": "callable", "function": "mine:build", "args": {}}, "code": str(folder)}


def test_it_trains_and_tells_and_both_launchers_have_the_same_bits(launch, tmp_path_factory):
    heard, checkpoint = launch()
    epochs = [event for event in heard if event["kind"] == "epoch"]
    assert [event["epoch"] for event in epochs] == [1, 2, 3]
    assert [event["kind"] for event in heard].count("first_step") == 1
    assert checkpoint.state["step"] == 15
    weights = checkpoint.tensors("model")
    kept = tmp_path_factory.getbasetemp() / "launched.json"
    mine = {name: value.flatten().tolist() for name, value in weights.items()}
    if not kept.exists():
        kept.write_text(json.dumps(mine))
    others = json.loads(kept.read_text())
    assert all(torch.equal(torch.tensor(mine[name]), torch.tensor(others[name])) for name in mine)


def test_a_mistake_in_the_users_code_is_a_sentence_with_its_line(launch, tmp_path):
    body = "x = x.view(7, -1) if self.training and len(x) > 2 else x"
    with pytest.raises(StageError) as caught:
        launch(**own_model(tmp_path, body))
    assert "mine.py line" in str(caught.value)
    assert not isinstance(caught.value, WorkerLost)
    # The ranks fail in the same batch: the slower one may be ended before it writes. The one that is named has written.
    rank = str(caught.value.where).rsplit(maxsplit=1)[-1]
    assert "Traceback" in (tmp_path / "work" / "logs" / f"train-rank-{rank}.log").read_text()


@pytest.mark.parametrize(
    ("launch", "rank"),
    [("processes", 0), ("processes", 1), pytest.param("ray_train", 1, marks=pytest.mark.ray)],
    indirect=["launch"],
)
def test_a_killed_rank_is_a_lost_worker_and_takes_the_others_along(launch, tmp_path, rank):
    found = []

    def kill(logs: Path) -> None:
        found.extend(rank_process(logs, each) for each in (0, 1))
        time.sleep(0.5)
        os.kill(found[rank], signal.SIGKILL)

    with pytest.raises(WorkerLost) as caught:
        launch(meanwhile=kill, epochs=100_000)
    assert f"worker {rank} of 2 failed" in str(caught.value)
    deadline = time.monotonic() + 20
    while not all(map(is_gone, found)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert all(map(is_gone, found))


def test_a_rank_that_ends_itself_is_lost_with_its_last_lines(launch, tmp_path):
    body = "import os; print('about to go'); os._exit(7) if self.training and len(x) > 2 else None"
    with pytest.raises(WorkerLost) as caught:
        launch(**own_model(tmp_path, body))
    assert "about to go" in str(caught.value)
