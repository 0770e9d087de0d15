"""A kubeconfig, an API server, quotas for GPUs and images that run, on the fake API server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("kubernetes", reason="pip install 'rayml[kubernetes]'")
sys.path.append(str(Path(__file__).parents[1] / "backends" / "kuberay_api"))

from fake_kube import FakeKube, failure
from kubeconfigs import TOKEN, write_kubeconfig
from s3 import free_ports

from rayml.doctor import kubernetes
from rayml.spec.load import load_cluster

CLUSTER = load_cluster(Path(__file__).parents[2] / "cluster" / "gpu-h100-spot.yaml")
QUOTAS = "/api/v1/namespaces/rayml/resourcequotas"


@pytest.fixture
def kube(tmp_path, monkeypatch):
    with FakeKube() as server:
        write_kubeconfig(tmp_path / "config", server.address)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        server.documents = {"/version": {"gitVersion": "v1.35.2"}, QUOTAS: {"items": []}}
        yield server


def look() -> dict:
    return {each.name: each for each in kubernetes.look(CLUSTER)}


def gpu_quota(hard: str, used: str) -> dict:
    key = "requests.nvidia.com/gpu"
    return {"items": [{"status": {"hard": {key: hard, "pods": "50"}, "used": {key: used}}}]}


def test_all_is_well(kube):
    kube.documents[QUOTAS] = gpu_quota("64", "8")
    found = look()
    assert {each.status for each in found.values()} == {"ok"}, found
    assert list(found) == ["kubernetes", "kuberay", "image", "gpu quota"]
    assert found["kubernetes"].found.endswith("answers, v1.35.2")
    assert found["gpu quota"].found == "the quota gives 64 GPUs, 8 in use, and the cluster file takes up to 32"
    assert {method for method, _ in kube.requests} == {"GET"}


@pytest.mark.parametrize(("hard", "used", "status"), [("16", "0", "wrong"), ("40", "16", "warning")])
def test_a_quota_too_small(kube, hard, used, status):
    kube.documents[QUOTAS] = gpu_quota(hard, used)
    found = look()["gpu quota"]
    assert found.status == status and "kubectl describe quota -n rayml" in found.hint


def test_a_quota_that_may_not_be_read(kube):
    del kube.documents[QUOTAS]
    found = look()["gpu quota"]
    assert found.status == "warning" and "kubectl auth can-i list resourcequotas -n rayml" in found.hint


def test_another_image_runs(kube):
    other = f"{CLUSTER.image.partition('@')[0]}@sha256:{'9' * 64}"
    pod = {"template": {"spec": {"containers": [{"image": other}]}}}
    document = {"kind": "RayCluster", "metadata": {"name": "a"}, "spec": {"headGroupSpec": pod, "workerGroupSpecs": []}}
    kube.put("rayclusters", document)
    found = look()["image"]
    assert found.status == "warning" and other in found.found and f"image: {other}" in found.hint


def test_no_kubeconfig(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    (found,) = kubernetes.look(CLUSTER)
    assert found.status == "wrong" and found.unreachable and "the kubeconfig leads to no cluster" in found.found
    assert "kubectl config get-contexts" in found.hint


def test_nobody_there(tmp_path, monkeypatch):
    write_kubeconfig(tmp_path / "config", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    (found,) = kubernetes.look(CLUSTER)
    assert found.unreachable and "cannot be reached" in found.found and "kubectl config use-context" in found.hint


def test_refused(kube):
    kube.fail_all = failure(401, f"Unauthorized: {TOKEN}")
    (found,) = kubernetes.look(CLUSTER)
    assert found.status == "wrong" and found.hint and TOKEN not in repr(found)
