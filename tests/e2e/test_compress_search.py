"""`compress.search` as a user runs it: trials share what is equal, and the job goes on with what was best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from e2e.commands import rayml, run_folders

from rayml.observe.events import read_events

pytestmark = pytest.mark.ray

JOB = """\
name: wine-search
seed: 11
data:
  source: {kind: sklearn, name: wine}
  split: {train: 0.6, val: 0.2, test: 0.2}
task: {kind: tabular_classification}
model: {kind: mlp, hidden: [64, 64]}
train: {workers: 1, epochs: 20, batch_size: 16, best: {metric: val/loss}}
compress:
  ladder:
    - {kind: prune, structured: 0.5, finetune: {epochs: 4}}
    - {kind: quantize, scheme: int8_static, calibration: {rows: 64}, keep: []}
  budget: {agreement: 0.5}
  search:
    space:
      ladder.0.structured: {choice: [0.3, 0.6]}
      ladder.1.scheme: {choice: [int8_static, int8_dynamic]}
    search: {kind: grid}
    objectives: [{metric: compress/agreement}, {metric: size_bytes}]
    budget: {trials: 4}
export: {}
evaluate: {}
"""


def test_trials_share_their_rungs_and_the_best_ladder_is_exported(tmp_path):
    job, home = tmp_path / "wine-search.yaml", tmp_path / "home"
    job.write_text(JOB)
    done = rayml(home, "run", str(job), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    sweep = json.loads((Path(document["artifacts"]["tune"]) / "sweep.json").read_text())
    assert [trial["status"] for trial in sweep["trials"]] == ["done"] * 4
    assert all({"compress/agreement", "size_bytes"} <= set(trial["values"]) for trial in sweep["trials"])
    sizes = {tuple(trial["point"].values()): trial["values"]["size_bytes"] for trial in sweep["trials"]}
    assert sizes[(0.6, "int8_static")] < sizes[(0.3, "int8_static")]
    store = home / "artifacts"
    assert len(list((store / "train").iterdir())) == 1, "the trials differ in their ladders alone"
    assert len(list((store / "finetune").iterdir())) == 2, "one for each share that is pruned"
    assert len(list((store / "rung").iterdir())) == 1 + 2 + 4, "uncompressed, pruned, quantized"

    decided = json.loads((run_folders(home)[-1] / "plan.json").read_text())["decision"]["values"]
    compressed = json.loads((Path(document["artifacts"]["compress"]) / "compress.json").read_text())
    ladder = [rung["config"] for rung in compressed["rungs"][1:]]
    assert ladder[0]["structured"] == decided["compress.ladder.0.structured"]
    assert ladder[1]["scheme"] == decided["compress.ladder.1.scheme"]
    events = read_events(run_folders(home)[-1] / "events.jsonl")
    made = [event for event in events if event["kind"] == "rung" and event.get("status") == "starts"]
    assert len(made) >= 2
