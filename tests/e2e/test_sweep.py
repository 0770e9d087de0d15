"""A sweep as a user runs it: killed anywhere it goes on, and ends as one that nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from e2e.commands import driver_pid, rayml, run_folders, start, wait_for

from rayml.backends.local import session_members
from rayml.observe.events import read_events

pytestmark = pytest.mark.ray

JOB = """\
name: wine-sweep
seed: 11
data:
  source: {kind: sklearn, name: wine}
  split: {train: 0.6, val: 0.2, test: 0.2}
task: {kind: tabular_classification}
model: {kind: mlp, hidden: [16]}
tune:
  space:
    train.optimizer.kind: {choice: [adamw, sgd]}
    train.optimizer.lr: {loguniform: [1.0e-4, 0.1]}
    train.optimizer.momentum: {uniform: [0.0, 0.9], when: {train.optimizer.kind: sgd}}
    model.dropout: {uniform: [0.0, 0.5]}
  search: {kind: random}
  objectives: [{metric: val/loss}]
  budget: {trials: 16}
train: {workers: 1, epochs: 60, batch_size: 16, best: {metric: val/loss}}
export: {}
evaluate: {}
"""
KILLS = (2, 7, 12)
"""After so many finished trials the driver is killed."""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    path = tmp_path_factory.mktemp("jobs") / "wine-sweep.yaml"
    path.write_text(JOB)
    return str(path)


def finished(home: Path) -> int:
    events = [event for run in run_folders(home) for event in read_events(run / "events.jsonl")]
    return sum(event["kind"] == "trial_done" for event in events)


def sweep_of(document: dict) -> dict:
    return json.loads((Path(document["artifacts"]["tune"]) / "sweep.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, job):
    """Nobody disturbs it."""
    home = tmp_path_factory.mktemp("whole")
    done = rayml(home, "run", job, "--json")
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout)


def test_a_sweep_whose_driver_is_killed_three_times_ends_as_one_that_was_not(whole, job, tmp_path):
    for kill in KILLS:
        process = start(tmp_path, "run", job)
        wait_for(lambda kill=kill: finished(tmp_path) >= kill, f"{kill} finished trials")
        driver = driver_pid(process)
        os.kill(driver, signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 4, output
        assert "Traceback" not in output
        wait_for(lambda driver=driver: session_members(driver) == [], "the end of what the driver started", 30)
    done = rayml(tmp_path, "run", job, "--json")
    assert done.returncode == 0, done.stderr

    undisturbed, killed = sweep_of(whole[1]), sweep_of(json.loads(done.stdout))
    assert [trial["number"] for trial in killed["trials"]] == list(range(16))
    assert {trial["status"] for trial in killed["trials"]} == {"done"}
    for mine, theirs in zip(killed["trials"], undisturbed["trials"], strict=True):
        assert mine["point"] == theirs["point"]
        assert mine["values"]["val/loss"] == theirs["values"]["val/loss"], "the same training, to the last bit"
        assert [epoch["val/loss"] for epoch in mine["epochs"]] == [epoch["val/loss"] for epoch in theirs["epochs"]]
    events = [event for run in run_folders(tmp_path) for event in read_events(run / "events.jsonl")]
    ends = [event["trial"] for event in events if event["kind"] == "trial_done"]
    assert sorted(ends) == list(range(16)), "no finished trial ran again"
    plans = [json.loads((run_folders(home)[-1] / "plan.json").read_text()) for home in (whole[0], tmp_path)]
    assert plans[0]["decision"] == plans[1]["decision"]
    assert killed["spent"]["wall_s"] > 0


def test_what_the_sweep_decided_is_what_is_trained_exported_and_shown(whole, job):
    home, document = whole
    decision = json.loads((run_folders(home)[0] / "plan.json").read_text())["decision"]
    best = min(sweep_of(document)["trials"], key=lambda trial: trial["values"]["val/loss"])
    assert decision["trial"] == best["number"]
    assert document["metrics"]["train"]["val/loss"] == best["values"]["val/loss"]
    statuses = {step["name"]: step["status"] for step in document["steps"]}
    assert statuses["train"] == "cached", "the trial's checkpoint is what is exported"

    shown = rayml(home, "show", document["run"], "--trial", str(best["number"]))
    assert shown.returncode == 0, shown.stderr
    assert yaml.safe_load(shown.stdout)["train"]["optimizer"]["lr"] == best["point"]["train.optimizer.lr"]
    (home / "again.yaml").write_text(shown.stdout)
    again = json.loads(rayml(home, "plan", str(home / "again.yaml"), "--json").stdout)
    steps = {step["name"]: step for step in again["steps"]}
    assert steps["train"]["status"] == "cached", "the job file of a trial is the trial"
    assert steps["train"]["key"] == best["keys"]["train"]


def test_another_choice_runs_no_trial_again(whole, job):
    home, _ = whole
    changes = ["--set", "tune.final=retrain", "--json"]
    planned = json.loads(rayml(home, "plan", job, *changes).stdout)
    assert planned["will_run"] == ["train", "export", "evaluate"]
    done = rayml(home, "run", job, *changes)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["metrics"]
    counts = rows["data"]
    per_epoch = rows["train"]["rows_seen"] / rows["train"]["epochs"]
    assert per_epoch == counts["rows_train"] + counts["rows_val"]


def test_limits_that_no_trial_keeps_to_end_with_3_and_name_the_nearest(whole, job):
    home, _ = whole
    done = rayml(home, "run", job, "--set", 'tune.limits={val/loss: "<= 1.0e-9"}')
    assert done.returncode == 3, done.stdout + done.stderr
    assert "none of 16 trials is within the limits; the nearest is trial" in done.stderr
    assert "Traceback" not in done.stderr


POPULATION = (
    JOB.replace("wine-sweep", "wine-population")
    .replace("  search: {kind: random}\n", "  scheduler: {kind: pbt, interval: 4, quantile: 0.5}\n")
    .replace("    train.optimizer.kind: {choice: [adamw, sgd]}\n", "    data.normalize: {choice: [standard, minmax]}\n")
    .replace("    train.optimizer.momentum: {uniform: [0.0, 0.9], when: {train.optimizer.kind: sgd}}\n", "")
    .replace("trials: 16", "trials: 4")
    .replace("epochs: 60", "epochs: 16")
)


def test_a_population_over_rows_and_rates_ends_with_weights_that_only_it_has(tmp_path):
    (tmp_path / "job.yaml").write_text(POPULATION)
    done = rayml(tmp_path, "run", str(tmp_path / "job.yaml"), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    sweep = sweep_of(document)
    assert [trial["status"] for trial in sweep["trials"]] == ["done"] * 4, [trial["error"] for trial in sweep["trials"]]
    assert {trial["point"]["data.normalize"] for trial in sweep["trials"]} <= {"standard", "minmax"}
    changed = [trial for trial in sweep["trials"] if trial["took_over"]]
    assert changed, "nobody took over"
    for trial in sweep["trials"]:
        assert [record["epoch"] for record in trial["epochs"]] == list(range(1, 17))
    for trial in changed:
        for change in trial["took_over"]:
            assert change["trial"] != trial["number"]
            # 16: the other one had finished while this one was behind.
            assert 1 <= change["epoch"] <= 16
    plan = json.loads((run_folders(tmp_path)[-1] / "plan.json").read_text())
    steps = {step["name"]: step for step in plan["steps"]}
    chosen = sweep["trials"][plan["decision"]["trial"]]
    assert steps["train"]["key"] == chosen["keys"]["train"]
    assert steps["data"]["config"]["normalize"] == chosen["point"]["data.normalize"]
    assert document["metrics"]["train"]["val/loss"] == chosen["values"]["val/loss"]
    shown = rayml(tmp_path, "show", document["run"], "--trial", str(changed[0]["number"])).stdout
    assert "it went on from the weights of trial" in shown
