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
from e2e.wine import BUCKET, job_file, job_text, model_of
from s3 import seaweed
from separate_hosts import network, ray_on_hosts

from rayml.artifacts.bucket import Bucket

pytestmark = pytest.mark.ray

EPOCHS = 25


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
    with ray_on_hosts(wires, 3, outside(), tmp_path_factory.mktemp("hosts")) as made:
        yield made


def outside() -> dict[str, str]:
    """What the hosts' processes find in their environment."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TMPDIR"))}


def rayml(cluster, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess:
    environment = {**os.environ, "RAY_AUTH_TOKEN": cluster.token}
    command = [sys.executable, "-m", "rayml.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def submit(cluster, job: str, storage: str, *more: str) -> subprocess.CompletedProcess:
    to = ("--address", cluster.address, "--storage", f"s3://{BUCKET}/{storage}")
    return rayml(cluster, "submit", job, *to, *more)


def ends_well(cluster, job: str, storage: str) -> dict:
    """Follow a run that was begun, or begin it."""
    done = submit(cluster, job, storage, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["status"] == "done"
    return document


def begin(cluster, job: str, storage: str) -> None:
    """Hand a run over and wait until a checkpoint of it is in the bucket."""
    begun = submit(cluster, job, storage, "--no-wait")
    assert begun.returncode == 0, begun.stderr
    bucket = Bucket(BUCKET, f"{storage}/artifacts/train")
    until(
        lambda: any("/work/checkpoints/" in e.path and e.path.endswith("manifest.json") for e in bucket.entries("")),
        "a checkpoint reaches the bucket",
    )


def until(holds, what: str, patience_s: float = 120) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, f"never seen: {what}"
        time.sleep(0.2)


def events(storage: str) -> list[dict]:
    bucket = Bucket(BUCKET, f"{storage}/runs")
    [path] = [entry.path for entry in bucket.entries("") if entry.path.endswith("events.jsonl")]
    found = bucket.read(path)
    assert found is not None
    return [json.loads(line) for line in found[0].decode().splitlines()]


def host_of_rank(cluster, rank: int, storage: str):
    """The host whose process wrote the rank's log."""
    bucket = Bucket(BUCKET, f"{storage}/runs")

    def pid() -> int | None:
        logs = [entry.path for entry in bucket.entries("") if entry.path.endswith(f"train-rank-{rank}.log")]
        found = bucket.read(logs[0]) if logs else None
        lines = [line for line in found[0].decode().splitlines() if line.startswith("--- rank")] if found else []
        return int(lines[-1].rpartition(" ")[2]) if lines else None

    until(lambda: pid() is not None, f"the log of rank {rank}")
    for host in cluster.workers:
        if str(pid()) in pids_of(host):
            return host
    raise AssertionError(f"no host has the process {pid()}")


def pids_of(host) -> list[str]:
    found = subprocess.run(["ip", "netns", "pids", host.name], check=True, capture_output=True, text=True)
    return found.stdout.split()


def epochs_seen(storage: str) -> list[int]:
    """The epochs whose rows were all read, each once, in the order in which they counted."""
    return [event["epoch"] for event in events(storage) if event["kind"] == "epoch"]


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    """The model of a run that nothing happened to."""
    ends_well(cluster, job_file(tmp_path_factory.mktemp("plain"), EPOCHS), "plain")
    return model_of("plain")


@pytest.mark.timeout(600)
def test_the_model_is_the_one_of_a_laptop_and_every_log_is_kept(cluster, undisturbed, tmp_path):
    job = job_file(tmp_path, EPOCHS)
    here = subprocess.run(
        [sys.executable, "-m", "rayml.cli", "run", job, "--home", str(tmp_path / "home"), "--to", "train"],
        env=outside(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert here.returncode == 0, here.stderr
    [model] = (tmp_path / "home" / "artifacts" / "train").glob("*/files-*/model.safetensors")
    assert model.read_bytes() == undisturbed
    for rank in (0, 1):
        logs = rayml(cluster, "logs", "wine", "--storage", f"s3://{BUCKET}/plain", "--file", f"train-rank-{rank}")
        assert f"rank {rank}, process" in logs.stdout


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_parts_of_a_checkpoint_that_lie_on_two_hosts_become_one_model(cluster, tmp_path):
    job = job_file(tmp_path, 3, "fsdp")
    ends_well(cluster, job, "sharded")
    assert len(model_of("sharded")) > 1000
    assert epochs_seen("sharded") == [1, 2, 3]


@pytest.mark.timeout(600)
def test_the_host_with_the_checkpoints_is_lost_and_the_run_goes_on_elsewhere(cluster, undisturbed, tmp_path):
    job = job_file(tmp_path, EPOCHS)
    begin(cluster, job, "host-lost")
    host_of_rank(cluster, 0, "host-lost").lose_power()
    until(lambda: any(event["kind"] == "retry" for event in events("host-lost")), "the loss is noticed")
    ends_well(cluster, job, "host-lost")
    assert model_of("host-lost") == undisturbed
    assert epochs_seen("host-lost")[-1] == EPOCHS


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_cable_is_pulled_and_put_back(cluster, undisturbed, tmp_path):
    cluster.join_new()
    job = job_file(tmp_path, EPOCHS)
    begin(cluster, job, "cut")
    host = host_of_rank(cluster, 1, "cut")
    host.cut()
    try:
        until(lambda: any(event["kind"] == "retry" for event in events("cut")), "the cut is noticed")
    finally:
        host.mend()
    ends_well(cluster, job, "cut")
    assert model_of("cut") == undisturbed


SWEEP = """
tune:
  space: {train.optimizer.lr: {loguniform: [1.0e-4, 1.0e-2]}}
  objectives: [{metric: val/loss, goal: min}]
  scheduler: {kind: SCHEDULER}
  budget: {trials: 4}
"""


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scheduler", ["asha", "pbt"])
def test_trials_on_hosts_without_a_common_folder(cluster, tmp_path, scheduler):
    job = tmp_path / "wine.yaml"
    job.write_text(job_text(6, workers=1) + SWEEP.replace("SCHEDULER", scheduler).lstrip("\n"))
    ends_well(cluster, str(job), f"sweep-{scheduler}")
    told = events(f"sweep-{scheduler}")
    assert not [event for event in told if event["kind"] == "trial" and event.get("status") == "failed"], told


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_head_is_lost_and_the_run_goes_on_on_other_hosts(cluster, undisturbed, wires, tmp_path, tmp_path_factory):
    job = job_file(tmp_path, EPOCHS)
    begin(cluster, job, "head-lost")
    cluster.stop()
    # Nothing of the first reader's copies helps the second.
    for folder in Path(os.environ["TMPDIR"]).glob("rayml-*"):
        shutil.rmtree(folder)
    with ray_on_hosts(wires, 2, outside(), tmp_path_factory.mktemp("others")) as others:
        ends_well(others, job, "head-lost")
        told = [event["text"] for event in events("head-lost") if event["kind"] == "note"]
        assert any("continues from epoch" in text for text in told), told
    assert model_of("head-lost") == undisturbed
