"""A job on a cluster that others run: a head with a token, three nodes, runs and artifacts on S3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from e2e.wine import BUCKET, job_file, model_of
from ray_cluster import ray_cluster
from s3 import seaweed

from rayml.artifacts.bucket import Bucket

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with seaweed(tmp_path_factory.mktemp("weed")) as found, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in found.environment.items():
            patch.setenv(name, value)
        # Driver and reader keep what they bring here below this folder.
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("scratch")))
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield found


def rayml(*arguments: str, token: str | None = None, timeout: float = 400) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": "/nonexistent"} if token is None else {"RAY_AUTH_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-m", "rayml.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.timeout(900)
def test_a_run_is_killed_with_its_cluster_and_goes_on_in_another_to_the_same_model(server, tmp_path):
    job = job_file(tmp_path, epochs=30)
    with ray_cluster(nodes=3) as cluster:
        to = ("--address", cluster.address)
        refused = rayml("submit", job, *to, "--storage", f"s3://{BUCKET}/undisturbed")
        assert refused.returncode == 5
        assert "asks for a token" in refused.stderr
        assert "RAY_AUTH_TOKEN" in refused.stderr
        wrong = rayml("submit", job, *to, "--storage", f"s3://{BUCKET}/undisturbed", token="w" * 32)
        assert wrong.returncode == 5
        assert "refuses the token" in wrong.stderr
        assert "w" * 32 not in wrong.stdout + wrong.stderr
        assert not Bucket(BUCKET, "undisturbed").entries(""), "nothing is half there"

        done = rayml("submit", job, *to, "--storage", f"s3://{BUCKET}/undisturbed", "--json", token=cluster.token)
        assert done.returncode == 0, done.stdout + done.stderr
        document = json.loads(done.stdout)
        assert document["status"] == "done"
        again = rayml("submit", job, *to, "--storage", f"s3://{BUCKET}/undisturbed", "--json", token=cluster.token)
        assert again.returncode == 0
        assert json.loads(again.stdout)["run"] == document["run"]
        assert "cached" in again.stderr

        begun = rayml("submit", job, *to, "--storage", f"s3://{BUCKET}/killed", "--no-wait", token=cluster.token)
        assert begun.returncode == 0, begun.stderr
        killed = Bucket(BUCKET, "killed/artifacts/train")
        deadline = time.monotonic() + 120
        while not any("/work/checkpoints/" in e.path and "manifest.json" in e.path for e in killed.entries("")):
            assert time.monotonic() < deadline, "no checkpoint reached the bucket"
            time.sleep(0.2)
        cluster.kill()
    status = rayml("runs", "--storage", f"s3://{BUCKET}/killed", "--json")
    assert json.loads(status.stdout)["runs"][0]["status"] in ("running", "interrupted")

    # Another head has nothing of what the first one had on its disk.
    for folder in Path(os.environ["TMPDIR"]).glob("rayml-*"):
        shutil.rmtree(folder)
    with ray_cluster(nodes=2) as cluster:
        to = ("--address", cluster.address, "--storage", f"s3://{BUCKET}/killed")
        done = rayml("submit", job, *to, "--json", token=cluster.token)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "goes on" in done.stderr or "from" in done.stderr
    assert model_of("killed") == model_of("undisturbed")

    # No cluster is there any more.
    told = rayml("status", "wine", "--storage", f"s3://{BUCKET}/killed")
    assert told.returncode == 0, told.stderr
    assert "evaluate" in told.stdout
    assert "done" in told.stdout
    logs = rayml("logs", "wine", "--storage", f"s3://{BUCKET}/killed", "--file", "train-rank-1")
    assert "rank 1, process" in logs.stdout


ROWS_JOB = """\
name: NAME
seed: 3
data:
  source: {kind: csv, path: rows}
  split: {train: 0.6, val: 0.2, test: 0.2}
task: {kind: tabular_classification}
model: {kind: mlp, hidden: [16]}
train: {workers: 1, epochs: 2, batch_size: 16, START}
evaluate: {gates: {accuracy: ">= 0"}}
export: {}
"""


@pytest.mark.timeout(600)
def test_files_beside_the_job_travel_and_a_run_of_the_storage_is_started_from(server, tmp_path):
    rows = tmp_path / "rows"
    rows.mkdir()
    for part in range(3):
        lines = [f"{(row * 7 + part) % 11},{row % 3},{row % 3 > 0}" for row in range(60)]
        (rows / f"part-{part}.csv").write_text("\n".join(["a,b,label", *lines]) + "\n")
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(ROWS_JOB.replace("NAME", "rows").replace(", START", ""))
    storage = ("--storage", f"s3://{BUCKET}/travel")
    with ray_cluster(nodes=1) as cluster:
        to = ("--address", cluster.address, *storage)
        shown = json.loads(rayml("submit", str(first), *to, "--dry-run", token=cluster.token).stdout)
        size = sum(path.stat().st_size for path in rows.iterdir())
        [files] = shown["files"]
        assert (files["what"], files["files"], files["bytes"]) == ("data.source.path rows", 3, size)
        assert files["to"].startswith(f"s3://{BUCKET}/travel/sent/data-")
        assert not Bucket(BUCKET, "travel").entries(""), "a dry run sends nothing"

        begun = rayml("submit", str(first), *to, "--no-wait", "--json", token=cluster.token)
        rows.rename(tmp_path / "away")
        assert begun.returncode == 0, begun.stderr
        assert "sending 3 files of data.source.path rows" in begun.stderr
        run = json.loads(begun.stdout)["run"]
        assert status_of(run, storage) == "done"

        (tmp_path / "away").rename(rows)
        again = rayml("submit", str(first), *to, "--json", token=cluster.token)
        assert again.returncode == 0, again.stderr
        assert (json.loads(again.stdout)["run"], "sending" in again.stderr) == (run, False)

        start = f"start: {{kind: run, run: {run}}}"
        second.write_text(ROWS_JOB.replace("NAME", "tuned").replace("START", start))
        tuned = rayml("submit", str(second), *to, "--json", token=cluster.token)
        assert tuned.returncode == 0, tuned.stdout + tuned.stderr
        assert json.loads(tuned.stdout)["status"] == "done"

        second.write_text(ROWS_JOB.replace("NAME", "tuned").replace("START", "start: {kind: run, run: no-such}"))
        unknown = rayml("submit", str(second), *to, token=cluster.token)
        assert unknown.returncode == 2
        assert f"it is not in s3://{BUCKET}/travel either" in unknown.stderr


def status_of(run: str, storage: tuple[str, ...], patience_s: float = 200) -> str:
    """How a run ended."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        told = rayml("status", run, *storage, "--json")
        if told.returncode == 0 and json.loads(told.stdout)["status"] in ("done", "failed"):
            return json.loads(told.stdout)["status"]
        time.sleep(1)
    return "running"
