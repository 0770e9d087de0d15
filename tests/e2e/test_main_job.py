"""The main job as a user runs it: from the command line, in processes of its own, on a real Ray cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from e2e.commands import driver_pid, rayml, run_folders, start, wait_for

from rayml.backends.local import session_members
from rayml.observe.events import read_events

JOB = "jobs/digits.yaml"
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home):
    """One whole run; the other tests look at what it left."""
    done = rayml(home, "run", JOB, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_document_says_what_was_done(first, home):
    assert first["status"] == "done"
    assert first["exit_code"] == 0
    assert [(step["name"], step["status"]) for step in first["steps"]] == [
        (name, "done") for name in ("data", "train", "export", "evaluate", "serve")
    ]
    assert all(step["seconds"] > 0 and len(step["key"]) == 64 for step in first["steps"])
    assert first["metrics"]["evaluate"]["accuracy"] >= 0.97
    assert first["metrics"]["export"]["parity_max_abs_diff"] <= 1e-4
    assert first["metrics"]["serve"]["parity_max_abs_diff"] <= 1e-4
    assert first["metrics"]["data"]["rows"] == 1797
    assert all(Path(path).is_dir() for path in first["artifacts"].values())
    assert first["endpoint"]["checks"]
    assert Path(first["report"]).read_text().startswith("<!doctype html>")
    assert (home / "runs" / first["run"]).is_dir()


def test_nothing_is_left_running_and_the_logs_are_kept(first, home):
    folder = home / "runs" / first["run"]
    assert (folder / "logs" / "train-rank-0.log").exists()
    assert list((folder / "logs" / "ray").glob("session_*/raylet.out"))
    assert not (folder / "endpoint.json").exists()


def test_a_second_run_executes_nothing_and_starts_no_ray(first, home):
    done = rayml(home, "run", JOB, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert {step["status"] for step in document["steps"]} == {"cached"}
    assert document["metrics"] == first["metrics"]
    folder = home / "runs" / document["run"]
    assert not (folder / "driver.log").exists(), "no process was started"
    assert not (folder / "logs").exists()


def test_plan_verify_and_diff_agree(first, home):
    planned = json.loads(rayml(home, "plan", JOB, "--json").stdout)
    assert planned["will_run"] == []
    assert planned["from_data"] == {"classes": 10, "shape": [8, 8, 1], "rows": 1797}
    verified = rayml(home, "verify", first["run"])
    assert verified.returncode == 0, verified.stderr
    changed = json.loads(rayml(home, "run", JOB, "--json", "--set", "evaluate.bootstrap=200").stdout)
    statuses = {step["name"]: step["status"] for step in changed["steps"]}
    assert [name for name, status in statuses.items() if status == "done"] == ["evaluate"]
    difference = rayml(home, "diff", first["run"], changed["run"]).stdout
    assert difference.strip() == "evaluate: evaluate.bootstrap: 1000 -> 200"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("evaluate.gates.accuracy='> 0.9999'", "accuracy is 0.9"),
        ("export.parity.tolerance=1.0e-30", "worst sample: sample_id"),
    ],
)
def test_a_gate_that_is_not_met_ends_with_3_and_keeps_what_was_made(first, home, change, words):
    done = rayml(home, "run", JOB, "--set", change)
    assert done.returncode == 3, done.stdout + done.stderr
    assert words in done.stderr
    assert "what was made is kept" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_artifact_is_found(first, home):
    path = Path(first["artifacts"]["evaluate"]) / "evaluation.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"accuracy", b"accurazy", 1))
    try:
        done = rayml(home, "verify")
        assert done.returncode == 3
        assert "evaluation.json" in done.stderr
    finally:
        path.write_bytes(content)


def test_serve_predict_and_stop(first, home, tmp_path):
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    image = tmp_path / "ziffer ä.png"
    Image.fromarray((digits.images[0] * 255 / 16).round().astype("uint8")).save(image)
    process = start(home, "serve", first["run"])
    try:
        folder = home / "runs" / first["run"]
        wait_for((folder / "endpoint.json").exists, "the endpoint")
        assert (folder / "endpoint.json").stat().st_mode & 0o777 == 0o600
        endpoint = json.loads((folder / "endpoint.json").read_text())
        answer = rayml(home, "predict", first["run"], str(image), "--json")
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["predictions"][0]["label"] == str(digits.target[0])
        refused = rayml(home, "predict", endpoint["url"], str(image))
        assert refused.returncode != 0
        assert "Traceback" not in refused.stderr
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "nothing is left running" in output
    assert not (folder / "endpoint.json").exists()
    gone = rayml(home, "predict", first["run"], str(image))
    assert gone.returncode == 5
    assert "serves nothing" in gone.stderr


LONG = ("--to", "train", "--set", "train.epochs=150", "--set", "train.checkpoint.every_steps=5")


def train_events(home: Path) -> list[dict]:
    return read_events(run_folders(home)[-1] / "events.jsonl")


def epochs_done(home: Path) -> int:
    return max((event["epoch"] for event in train_events(home) if event["kind"] == "epoch"), default=0)


def test_interrupted_killed_and_finished(home, first, tmp_path_factory):
    """Ctrl-C, SIGKILL of the driver, of driver and command line, of a worker: each time it goes on where it was."""
    process = start(home, "run", JOB, *LONG)
    wait_for(lambda: epochs_done(home) >= 10, "ten epochs")
    driver = driver_pid(process)
    while process.poll() is None:  # an impatient user: none of them may cut the clean-up or the last lines short
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130, output
    assert "nothing is left running" in output
    assert "rayml run jobs/digits.yaml" in output
    assert session_members(driver) == []
    reached = epochs_done(home)

    process = start(home, "run", JOB, *LONG)
    wait_for(lambda: epochs_done(home) > reached + 10, "more epochs")
    driver = driver_pid(process)
    os.kill(driver, signal.SIGKILL)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 4, output
    assert "run the same command" in output
    assert "Traceback" not in output
    wait_for(lambda: session_members(driver) == [], "the end of everything that the driver started", 30)
    epochs = [event["epoch"] for event in train_events(home) if event["kind"] == "epoch"]
    # Workers go on for the tenths of a second that their end takes: those epochs are in the checkpoint and not told.
    assert reached <= epochs[0] <= reached + 5, "it went on where the first run was stopped"
    reached = epochs_done(home)

    process = start(home, "run", JOB, *LONG)
    wait_for(lambda: epochs_done(home) > reached + 10, "more epochs again")
    driver = driver_pid(process)
    os.kill(process.pid, signal.SIGKILL)
    os.kill(driver, signal.SIGKILL)
    process.communicate(timeout=30)
    wait_for(lambda: session_members(driver) == [], "the end of the ranks, with nobody there to end them", 30)
    reached = epochs_done(home)

    process = start(home, "run", JOB, *LONG)
    wait_for(lambda: epochs_done(home) > reached + 10, "still more epochs")
    os.kill(worker_pid(home, rank=1), signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    kinds = [event["kind"] for event in train_events(home)]
    assert kinds.count("retry") == 1
    history = json.loads((artifact(home, "train") / "history.json").read_text())
    assert [record["epoch"] for record in history] == list(range(1, 151))
    assert {record["rows_seen"] for record in history} == {history[0]["rows_seen"]}


def worker_pid(home: Path, rank: int) -> int:
    log = run_folders(home)[-1] / "logs" / f"train-rank-{rank}.log"
    return int(log.read_text().splitlines()[0].rpartition(" ")[2])


def artifact(home: Path, step: str) -> Path:
    done = next(event for event in train_events(home) if event["kind"] == "step_done" and event["step"] == step)
    return Path(done["path"])


def test_ray_that_a_killed_run_left_is_ended_by_the_next(home, first):
    """Ray's agents outlive a driver and a raylet that were killed together; here while Ray Train has the workers."""
    process = start(home, "run", JOB, *LONG, "--set", "train.launcher=ray_train", "--set", "train.epochs=149")
    wait_for(lambda: epochs_done(home) > 3, "some epochs on Ray Train")
    driver, folder = driver_pid(process), run_folders(home)[-1]
    os.kill(process.pid, signal.SIGKILL)
    os.kill(driver, signal.SIGKILL)
    process.communicate(timeout=30)
    assert (folder / "session.json").exists(), "nobody was left to clean up"

    process = start(home, "run", JOB, *LONG, "--set", "train.launcher=ray_train", "--set", "train.epochs=149")
    wait_for(lambda: epochs_done(home) > 3, "more epochs on Ray Train")
    assert session_members(driver) == [], "the next run ends what the killed one left"
    assert not (folder / "session.json").exists()
    assert list((folder / "logs" / "ray").glob("session_*/raylet.out")), "and keeps its logs"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130, output


def test_a_worker_that_keeps_dying_ends_with_4_and_its_last_lines(home, first):
    process = start(home, "run", JOB, *LONG, "--set", "train.retries=0", "--set", "train.optimizer.lr=1.0e-3")
    wait_for(lambda: epochs_done(home) >= 3, "three epochs")
    os.kill(worker_pid(home, rank=1), signal.SIGKILL)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 4, output
    assert "its last lines" in output
    assert "Traceback" not in output.partition("its last lines")[0]
    failed = [event for event in train_events(home) if event["kind"] == "step_failed"]
    assert failed[-1]["error"]["type"] == "WorkerLost"


def test_a_network_that_fails_while_it_trains_ends_with_4_and_the_users_own_line(home, tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear = torch.nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        if self.training:\n"
        "            raise ValueError('zu groß')\n"
        "        return self.linear(x.flatten(1))\n"
        "def build(schema):\n"
        "    return Net()\n"
    )
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: own\ncode: .\ndata: {source: {kind: sklearn, name: digits}}\ntask: {kind: image_classification}\n"
        "model: {kind: callable, function: 'own:build'}\ntrain: {workers: 2}\n"
    )
    done = rayml(home, "run", str(job))
    assert done.returncode == 4, done.stderr
    assert re.search(r"error: train, worker [01]: ValueError: zu groß \(own\.py line 8\)", done.stderr), done.stderr
    assert "train-rank-" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
