"""Hosts that share no folder: what a job makes on one reaches the others over S3, and outlives every one of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from s3 import seaweed
from separate_hosts import network, ray_on_hosts

from rayml.artifacts.bucket import Bucket

pytestmark = pytest.mark.ray

BUCKET = "runs"
JOB = """\
name: wine
seed: 11
data:
  source: {kind: sklearn, name: wine}
  split: {train: 0.6, val: 0.2, test: 0.2}
task: {kind: tabular_classification}
model: {kind: mlp, hidden: [64, 64]}
train: {workers: 2, epochs: EPOCHS, batch_size: 16, best: {metric: val/loss}, checkpoint: {every_steps: 3}, STRATEGY}
export: {}
evaluate: {}
serve: {}
"""


@pytest.fixture(scope="module")
def wires():
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def server(wires, tmp_path_factory):
    with seaweed(tmp_path_factory.mktemp("weed"), wires.address) as found, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in found.environment.items():
            patch.setenv(name, value)
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("scratch")))
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield found


@pytest.fixture(scope="module")
def cluster(wires, server, tmp_path_factory):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TMPDIR"))}
    with ray_on_hosts(wires, 3, environment, tmp_path_factory.mktemp("hosts")) as made:
        yield made


def rayml(cluster, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess:
    environment = {**os.environ, "RAY_AUTH_TOKEN": cluster.token}
    command = [sys.executable, "-m", "rayml.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def job_file(folder: Path, epochs: int, strategy: str = "strategy: {kind: ddp}") -> str:
    path = folder / "wine.yaml"
    path.write_text(JOB.replace("EPOCHS", str(epochs)).replace("STRATEGY", strategy))
    return str(path)


def model_of(prefix: str) -> bytes:
    bucket = Bucket(BUCKET, f"{prefix}/artifacts/train")
    [path] = [entry.path for entry in bucket.entries("") if entry.path.count("/") == 2 and "model.safe" in entry.path]
    found = bucket.read(path)
    assert found is not None
    return found[0]


@pytest.mark.timeout(600)
def test_hosts_without_a_common_folder_train_over_the_bucket(cluster, tmp_path):
    job = job_file(tmp_path, 6)
    done = rayml(
        cluster, "submit", job, "--address", cluster.address, "--storage", f"s3://{BUCKET}/plain", "--json"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["status"] == "done"
