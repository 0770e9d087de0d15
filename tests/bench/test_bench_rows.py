"""What each bench takes for a proof, the command line, and one short bench for real."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from rayml.bench import startup, train
from rayml.bench.table import BENCHES, NoSuchBench, run_bench
from rayml.bench.train_settings import TrainSettings, load_settings
from rayml.errors import StageError
from rayml.ml.shards import ShardSet, load_schema

EPOCH = {"rows": 12800, "loss": 0.021, "val_loss": 0.0066}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, None),
        ({"loss": 0.021 * (1 + 1e-9)}, None),
        ({"loss": 0.021 * (1 + 1e-5)}, "loss"),
        ({"val_loss": 0.0067}, "val_loss"),
        ({"rows": 12799}, "rows"),
        ({"loss": float("nan")}, "loss"),
    ],
)
def test_training_is_the_same_where_every_epoch_is(change, word):
    found = train.same_losses([EPOCH, EPOCH], [EPOCH, {**EPOCH, **change}])
    assert (found is None) if word is None else (f"an epoch's {word} is" in found)


JOB = {
    "rows": [1438, 180, 179],
    "rows_seen": 21570,
    "epochs": 15,
    "accuracy": 0.978,
    "export_difference": 4.5e-7,
    "endpoint_difference": 4.5e-7,
    "endpoint_mismatches": 0,
}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"accuracy": 0.994}, None),
        ({"accuracy": 0.90}, "accuracy by the alternative is 0.9000"),
        ({"epochs": 14}, "epochs is 15, and 14"),
        ({"rows": [1437, 180, 180]}, "rows is"),
        ({"endpoint_mismatches": 1}, "by the alternative the endpoint does not answer"),
        ({"endpoint_difference": 0.01}, "by the alternative the endpoint does not answer"),
    ],
)
def test_a_job_is_the_same_where_rows_epochs_and_answers_are(change, word):
    found = startup.same_job(JOB, {**JOB, **change})
    assert (found is None) if word is None else (word in found)


def test_the_rows_to_train_on_are_digits_in_canonical_shards(tmp_path):
    train.made_rows(tmp_path / "data", 2_000)
    rows, val = (ShardSet.open(tmp_path / "data", split) for split in ("train", "val"))
    assert (len(rows), len(val), rows.shape) == (2_000, 200, (8, 8, 1))
    assert len(set(rows.sample_ids.tolist()) | set(val.sample_ids.tolist())) == 2_200
    images, labels = rows.rows(0, 1797)
    repeated, same_labels = rows.rows(1797, 2_000)
    np.testing.assert_array_equal(images[:203], repeated)
    np.testing.assert_array_equal(labels[:203], same_labels)
    assert load_schema(tmp_path / "data").classes == tuple("0123456789")


def test_settings_come_back_as_they_were_saved(tmp_path):
    settings = TrainSettings(
        data=tmp_path,
        folder=tmp_path / "größe",
        laps=9,
        epochs_per_lap=2,
        rows=1437,
        batch_size=64,
        model={"kind": "mlp"},
    )
    assert load_settings(str(settings.save())) == settings
    assert settings.epochs == 18


def test_a_second_run_that_did_something_is_refused(tmp_path):
    run = tmp_path / "runs" / "digits-1"
    run.mkdir(parents=True)
    (run / "plan.json").write_text("{}")
    events = [{"kind": "run_started"}, {"kind": "step_cached"}, {"kind": "run_done"}]
    result = {"run": "digits-1", "steps": [{"status": "cached"}]}
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    startup.refuse_work(tmp_path, result)
    with (run / "events.jsonl").open("a") as stream:
        stream.write(json.dumps({"kind": "note", "text": "starts Ray"}) + "\n")
    with pytest.raises(StageError, match="note"):
        startup.refuse_work(tmp_path, result)


def test_a_bench_that_is_not_there():
    with pytest.raises(NoSuchBench, match="no bench 'strat'") as refused:
        run_bench("strat", "quick", print)
    assert refused.value.exit_code == 2
    assert all(name in refused.value.hint for name in BENCHES)


def test_a_row_that_is_not_there_is_refused_with_those_that_fit():
    with pytest.raises(NoSuchBench, match="no row 'fsdp resnet'") as refused:
        run_bench("train", "full", print, ["ddp resnet18", "fsdp resnet"])
    assert refused.value.exit_code == 2
    assert all(row in refused.value.hint for row in train.names("full"))
    with pytest.raises(NoSuchBench, match="no row 'first step' with --quick") as refused:
        run_bench("train", "quick", print, ["first step"])
    assert "it is measured with --full" in refused.value.hint


@pytest.mark.parametrize("wanted", [["first step"], ["fsdp resnet18", "ddp resnet18"], train.names("full")])
def test_a_training_bench_measures_the_rows_that_are_wanted(monkeypatch, wanted):
    monkeypatch.setattr(train, "measure", lambda load, folder, say: load.name)
    monkeypatch.setattr(train.first_step, "measure", lambda folder, pairs, say: "first step")
    assert sorted(train.run("full", print, wanted)) == sorted(wanted)


@pytest.mark.parametrize(
    ("wanted", "jobs"), [(["help", "validate"], 0), (["plan"], 1), (["second run", "help"], 1), (["main job"], 0)]
)
def test_a_startup_bench_runs_the_job_for_the_rows_that_need_it(monkeypatch, wanted, jobs):
    done = []
    monkeypatch.setattr(startup.MainJob, "lap", lambda self: done.append("job"))
    monkeypatch.setattr(startup, "refuse_imports", lambda home: None)
    monkeypatch.setattr(startup, "compete", lambda contest, pairs, **_: contest.name)
    assert startup.run("quick", print, wanted) == sorted(wanted, key=startup.NAMES.index)
    assert len(done) == jobs


def test_one_row_from_the_command_line():
    argv = [sys.executable, "-m", "rayml.cli", "bench", "startup", "--row", "validate"]
    done = subprocess.run([*argv, "--json"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["name"] for row in found["rows"]] == ["validate"]
    assert found["command"] == "rayml bench startup --quick --row validate"
    refused = subprocess.run([*argv[:-1], "valdate"], capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 2
    assert "validate" in refused.stderr


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.parametrize("name", BENCHES)
def test_a_quick_bench_from_the_command_line(name):
    argv = [sys.executable, "-m", "rayml.cli", "bench", name, "--quick", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["bench"], found["mode"]) == (name, "quick")
    assert all(row["same_work"] is not False and row["ours"] > 0 for row in found["rows"])
