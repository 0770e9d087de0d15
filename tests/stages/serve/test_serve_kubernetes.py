"""The application of a RayService: what each replica does before it is ready; the rendered config on a real Serve."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
import yaml
from backends.kuberay.kuberay_jobs import cluster_file, plan_of
from s3 import client as s3_client
from s3 import seaweed
from stages.serve.conftest import image_schema, write_model

from rayml.artifacts.manifest import Manifest
from rayml.artifacts.opening import open_artifacts, open_store
from rayml.backends.kuberay.service import serve_config
from rayml.errors import GateError, StageError
from rayml.plan.plan import Decision, make_step
from rayml.stages.serve import haproxy
from rayml.stages.serve.arguments import read_arguments
from rayml.stages.serve.client import Client
from rayml.stages.serve.inside import Inside
from rayml.stages.serve.kubernetes import app, build_replica, decided_artifact
from rayml.stages.serve.model import load_model
from rayml.stages.serve.parity import ask_infer

KEY = "0123456789abcdef0123456789abcdef"
RUN = "ziffern-1"
ARTIFACT = "ab" * 32
ROWS = np.random.default_rng(0).integers(0, 256, (40, 5, 7, 1), np.uint8)


def commit_export(storage: str, cache: Path, key: str = ARTIFACT, shift: float = 0.0) -> None:
    """An export artifact in a storage. `shift` is added to the recorded answers, as if another model had given them."""
    store = open_store(f"{storage}/artifacts", cache)
    folder = write_model(store.staging("export", key), image_schema())
    probabilities = load_model(folder, threads=1).infer(ROWS)[1]
    np.savez(
        folder / "parity.npz",
        sample_ids=np.arange(500, 540),
        inputs=ROWS,
        probabilities=np.float32(probabilities + shift),
        labels=probabilities.argmax(axis=1),
    )
    about = {"files": (), "config": {}, "inputs": {}, "metrics": {}, "facts": {}, "environment": {}}
    manifest = Manifest(
        kind="export", key=key, code="c", run=RUN, job="j", created="2026-01-01T00:00:00Z", seconds=1, **about
    )
    store.commit(folder, manifest)


def plan_with(artifact: str = ARTIFACT, replicas: int = 1):
    plan = plan_of("digits", "cpu-sweep")
    serve = plan.step("serve")
    policy = {**serve.policy, "replicas": {"min": 1, "max": replicas}}
    ours = serve.model_copy(update={"inputs": {"export": artifact}, "policy": policy})
    return plan.model_copy(update={"steps": (*plan.steps[:-1], ours)})


def rendered(storage: str, port: int = 8000, **changes):
    """serveConfigV2 as it is rendered, read from YAML again. A cluster file takes s3:// only; tests, folders too."""
    cluster = cluster_file("cpu-sweep").model_copy(update={"storage": storage})
    config = yaml.safe_load(yaml.safe_dump(serve_config(plan_with(**changes), cluster, RUN)))
    config["http_options"] |= {"port": port, "host": "127.0.0.1"}
    return config


def arguments(storage: str, **changes):
    (found,) = rendered(storage)["applications"]
    return read_arguments({**found["args"], **changes})


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYML_ENDPOINT_KEY", f"{KEY}\n")
    commit_export(str(tmp_path / "storage"), tmp_path / "cache")
    return str(tmp_path / "storage")


def test_a_replica_answers_as_the_recorded_answers_say(storage):
    replica = build_replica(arguments(storage), ARTIFACT)
    answers = ask_infer(Inside(replica, KEY), "ziffern", "image", ROWS[:5], 2)
    expected = load_model(open_artifacts(storage, "serve").find("export", ARTIFACT).path, threads=1).infer(ROWS[:5])
    np.testing.assert_array_equal(answers.probabilities, expected[1])
    assert Inside(replica, None).ask("GET", "/v2").status == 401
    assert Inside(replica, KEY + "x").ask("GET", "/v2").status == 401
    assert Inside(replica, KEY).ask("GET", "/v2").status == 200


@pytest.mark.parametrize("key", [None, "", "\n", "short", "x" * 31, "with a space in it, and long enough"])
def test_without_a_good_key_nothing_is_served(storage, monkeypatch, key):
    monkeypatch.delenv("RAYML_ENDPOINT_KEY") if key is None else monkeypatch.setenv("RAYML_ENDPOINT_KEY", key)
    with pytest.raises(StageError, match="without one nothing is served") as error:
        build_replica(arguments(storage), ARTIFACT)
    assert "kubectl create secret generic" in error.value.hint
    assert not key or len(key) < 5 or key not in str(error.value)


def test_an_open_endpoint_has_to_be_asked_for(storage, monkeypatch):
    monkeypatch.delenv("RAYML_ENDPOINT_KEY")
    replica = build_replica(arguments(storage, key=False), ARTIFACT)
    assert Inside(replica, None).ask("GET", "/v2").status == 200


def test_limits_are_those_of_the_job(storage):
    replica = Inside(build_replica(arguments(storage, max_body=1000, max_rows=2), ARTIFACT), KEY)
    assert replica.ask("POST", "/predict", b"x" * 1001).status == 413
    answer = replica.ask("POST", "/predict", b'{"instances": [1, 2, 3]}', {"Content-Type": "application/json"})
    assert answer.status == 413 and b"at most 2 fit" in answer.body


@pytest.mark.parametrize(("shift", "fails"), [(9e-5, False), (1.1e-4, True), (np.nan, True)])
def test_a_replica_that_answers_otherwise_never_starts(tmp_path, monkeypatch, shift, fails):
    monkeypatch.setenv("RAYML_ENDPOINT_KEY", KEY)
    commit_export(str(tmp_path), tmp_path / "cache", shift=shift)
    if not fails:
        build_replica(arguments(str(tmp_path)), ARTIFACT)
        return
    with pytest.raises(GateError, match="otherwise than the trained checkpoint: parity_"):
        build_replica(arguments(str(tmp_path)), ARTIFACT)


def test_a_model_that_is_not_there_or_damaged_is_said(storage):
    with pytest.raises(StageError, match=r"exported model cdcdcdcdcdcd of the run ziffern-1 is not in the storage"):
        build_replica(arguments(storage), "cd" * 32)
    (path,) = Path(storage).glob("artifacts/export/*/files-*/model.onnx")
    path.unlink()
    with pytest.raises(StageError, match=r"is damaged: .*model\.onnx is missing"):
        build_replica(arguments(storage), ARTIFACT)


def test_what_a_sweep_decided_is_read_from_the_run(storage):
    given = arguments(storage).model_copy(update={"artifact": None})
    with pytest.raises(StageError, match="has left no plan"):
        app(given.model_dump())
    plan = plan_with()
    swept = plan.model_copy(update={"steps": (make_step("tune", {}, {}, "c"), *plan.steps)})
    path = Path(storage) / "runs" / RUN / "plan.json"
    path.parent.mkdir(parents=True)
    path.write_text(swept.model_dump_json())
    with pytest.raises(StageError, match="has not decided on a model"):
        app(given.model_dump())
    decision = Decision(trial=1, values={}, objectives={}, why="best")
    path.write_text(swept.model_copy(update={"decision": decision}).model_dump_json())
    assert decided_artifact(open_artifacts(storage, "serve"), given) == plan.step("export").key


@pytest.mark.parametrize(
    ("changes", "what"), [({"storage": None}, "storage: "), ({"port": 1}, "port: "), ({"max_rows": "x"}, "max_rows: ")]
)
def test_arguments_that_another_rayml_wrote_are_refused(tmp_path, changes, what):
    with pytest.raises(StageError, match=f"args: {what}") as error:
        app({**arguments(str(tmp_path)).model_dump(), **changes})
    assert error.value.where.startswith("serveConfigV2")


ALONE = "RAYML_TEST_ALONE"
own_process = pytest.mark.skipif(ALONE not in os.environ, reason="test_on_a_real_serve runs it in its own process")


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_on_a_real_serve():
    """In a process of their own: Ray 2.60 ended one (SIGSEGV) that had another Ray with Serve before."""
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "rendered_config or without_a_config"]
    done = subprocess.run(command, env={**os.environ, ALONE: "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout[-5000:]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with seaweed(tmp_path_factory.mktemp("weed")) as server:
        s3_client(server).create_bucket(Bucket="serving")
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, bucket):
    """A Ray with a dashboard, whose processes have the environment that pods of an endpoint are rendered with."""
    import ray
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    folder = tmp_path_factory.mktemp("run")
    environment = {**haproxy.serve_environment(folder), **bucket.environment, "RAYML_ENDPOINT_KEY": KEY}
    assert haproxy.pod_environment().items() <= environment.items()
    dashboard, port = haproxy.free_ports(2)
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200_000_000,
        include_dashboard=True,
        dashboard_port=dashboard,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    try:
        dashboard_of = requests.Session()
        # Ray reads a token once in a process: another one would not fit a cluster that an earlier test had.
        dashboard_of.headers.update(get_auth_headers_if_auth_enabled({}))
        yield SimpleNamespace(
            port=port, api=f"http://127.0.0.1:{dashboard}/api/serve/applications/", dashboard=dashboard_of
        )
    finally:
        from ray import serve

        serve.shutdown()
        ray.shutdown()
        haproxy.reap(folder)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def deploy(cluster, config) -> tuple[str, str]:
    """Hand a config to Serve as KubeRay does, over the dashboard's REST API; status and message of its application."""
    answer = cluster.dashboard.put(cluster.api, json=config, timeout=30)
    assert answer.status_code == 200, answer.text
    deadline = time.monotonic() + 90
    while True:
        found = cluster.dashboard.get(cluster.api, timeout=30).json()["applications"].get("rayml", {})
        status = found.get("status")
        if status in ("RUNNING", "DEPLOY_FAILED", "UNHEALTHY"):
            return status, found["message"] + "".join(each["message"] for each in found["deployments"].values())
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def predicts(cluster) -> None:
    """Over HTTP, as a client of the endpoint does."""
    url = f"http://127.0.0.1:{cluster.port}"
    with Client(url, KEY) as asker:
        answers = ask_infer(asker, "ziffern", "image", ROWS[:3], 10)
        assert len(answers.labels) == 3
        assert asker.ask("GET", "/v2").headers["x-model-version"]
        # What the guard keeps from Ray: as it is, Ray would answer 500 to such a header.
        assert asker.ask("GET", "/v2", headers={"X-Session-Id": "\xff"}).status == 200
    for key in (None, f"{KEY}x"):
        with Client(url, key) as stranger:
            assert stranger.ask("GET", "/v2").status == 401
            assert stranger.ask("GET", "/v2/health/ready").status == 200


@own_process
@pytest.mark.ray
@pytest.mark.timeout(240)
def test_the_rendered_config_serves_from_a_folder_and_from_a_bucket(cluster, bucket, tmp_path, monkeypatch):
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    for place in (str(tmp_path / "storage"), "s3://serving/team/runs"):
        commit_export(place, tmp_path / "cache")
        assert deploy(cluster, rendered(place, cluster.port, replicas=2)) == ("RUNNING", "")
        predicts(cluster)
    status, message = deploy(cluster, rendered(str(tmp_path / "storage"), cluster.port, artifact="cd" * 32))
    assert status == "DEPLOY_FAILED" and "is not in the storage" in message
    without = rendered(str(tmp_path / "storage"), cluster.port)
    without["applications"][0]["runtime_env"] = {"env_vars": {"RAYML_ENDPOINT_KEY": ""}}
    status, message = deploy(cluster, without)
    assert status == "DEPLOY_FAILED" and "without one nothing is served" in message


@own_process
@pytest.mark.ray
@pytest.mark.timeout(120)
def test_the_application_runs_without_a_config_too(cluster, tmp_path):
    from ray import serve

    commit_export(str(tmp_path), tmp_path / "cache")
    serve.run(app(arguments(str(tmp_path)).model_dump()), name="rayml", route_prefix="/")
    predicts(cluster)
