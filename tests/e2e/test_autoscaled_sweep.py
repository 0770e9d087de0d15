"""A sweep on nodes that come and go, of which one dies while more are coming."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from e2e.commands import driver_pid, run_folders, start, wait_for

from rayml.backends.local import session_members
from rayml.observe.events import read_events

pytestmark = pytest.mark.ray

JOB = """\
name: growing
seed: 3
data:
  source: {kind: sklearn, name: digits}
  split: {train: 0.8, val: 0.1, test: 0.1}
task: {kind: image_classification}
model: {kind: mlp, hidden: [32]}
tune:
  space: {train.optimizer.lr: {loguniform: [1.0e-4, 1.0e-2]}}
  search: {kind: random}
  budget: {trials: 14}
train: {workers: 1, epochs: 40}
"""
CLUSTER = "{kind: local, cpus: 1, object_store: 256MiB, nodes: {min: 0, max: 3, cpus: 1, idle: 4s}}\n"


def sweep_events(home: Path) -> list[dict]:
    return [event for event in read_events(run_folders(home)[-1] / "events.jsonl") if event["kind"] == "sweep"]


def raylets(session: int) -> list[int]:
    """The raylets of a process session, the youngest last."""
    found = [pid for pid in session_members(session) if Path(f"/proc/{pid}/comm").read_text().strip() == "raylet"]
    return sorted(found, key=lambda pid: Path(f"/proc/{pid}/stat").stat().st_ctime)


def test_a_node_that_is_lost_while_more_come_costs_no_trial(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    home = tmp_path / "home"
    process = start(home, "run", str(tmp_path / "job.yaml"), "--cluster", str(tmp_path / "cluster.yaml"))
    folder = run_folders(home)[-1]
    driver = driver_pid(process)
    wait_for(lambda: any(event["nodes"] >= 2 for event in sweep_events(home)), "two nodes beside the head")
    head = json.loads((folder / "session.json").read_text())["head"]
    os.kill(raylets(head)[-1], signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output

    made = [event for event in read_events(folder / "events.jsonl") if event["kind"] == "step_done"]
    artifact = Path(next(event["path"] for event in made if event["step"] == "tune"))
    sweep = json.loads((artifact / "sweep.json").read_text())
    assert [trial["status"] for trial in sweep["trials"]] == ["done"] * 14
    for trial in sweep["trials"]:
        assert [record["epoch"] for record in trial["epochs"]] == list(range(1, 41)), "each epoch once"
    counts = [change["nodes"] for change in sweep["nodes"]]
    assert max(counts) in (2, 3), "never above the maximum"
    assert len({span["node"] for trial in sweep["trials"] for span in trial["spans"]}) >= 2, "nodes that came had work"
    assert session_members(head) == session_members(driver) == [], "nothing is left"
