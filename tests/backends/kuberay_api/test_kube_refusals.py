"""Every refusal says what, where and what to type; no text holds what was shown to the server."""

from __future__ import annotations

import sys

import pytest
from fake_kube import failure
from kubeconfigs import TOKEN, write_kubeconfig

from rayml.backends.kuberay.api import connect
from rayml.backends.kuberay.exchange import Asked
from rayml.errors import BackendError, PlanError, RaymlError

JOB = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "d", "namespace": "rayml"}, "spec": {}}
CAUSES = [{"reason": "FieldManagerConflict", "field": ".spec.suspend"}]
TABLE = {
    "401": (failure(401, "Unauthorized"), BackendError, "does not know who asks", "log in anew"),
    "403": (failure(403, 'User "j" cannot patch'), BackendError, "may not patch rayjobs.ray.io", "k8s/base/roles.yaml"),
    "quota": (failure(403, "forbidden: exceeded quota: rayml"), BackendError, "quota is used up", "describe quota"),
    "ending": (failure(403, "ns rayml because it is being terminated"), BackendError, "being deleted", "overlays"),
    "podsecurity": (failure(403, 'violates PodSecurity "restricted"'), BackendError, "Pod Security", "report"),
    "no crd": ((404, "404 page not found\n"), BackendError, "knows no RayJob of ray.io/v1", "KubeRay 1.7"),
    "no crd, json": (
        failure(404, "the server could not find the requested resource"),
        BackendError,
        "not installed there, or an older",
        "k8s/operator",
    ),
    "no namespace": (
        failure(404, 'namespaces "rayml" not found', name="rayml", kind="namespaces"),
        BackendError,
        "no namespace rayml",
        "kubectl apply -k k8s/overlays/",
    ),
    "conflict": (
        failure(409, 'conflict with "helm"', causes=CAUSES),
        BackendError,
        'conflict with "helm" (fields .spec.suspend)',
        "managed-fields",
    ),
    "invalid": (failure(422, "spec.x: Invalid value: 3"), PlanError, "spec.x: Invalid value: 3", "version"),
    "long name": (
        failure(422, 'metadata.name: Invalid value: "ddd": must be no more than 63 characters'),
        PlanError,
        "name is too long",
        "--run NAME",
    ),
    "webhook": (failure(403, 'admission webhook "v.io" denied the request: no'), PlanError, "denied", "cluster file"),
    "policy": (
        failure(422, "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: x"),
        PlanError,
        "denied",
        "policy",
    ),
    "webhook is away": (
        failure(500, 'Internal error occurred: failed calling webhook "v.io"'),
        BackendError,
        "webhook does not answer",
        "pods have to run",
    ),
    "no rehearsal": (
        failure(400, 'admission webhook "v.io" does not support dry run'),
        BackendError,
        "cannot be rehearsed",
        "sideEffects",
    ),
    "too large": (failure(413, "Request entity too large: limit is 3145728"), PlanError, "too large", ".rayignore"),
    "etcd": (failure(500, "etcdserver: request is too large"), PlanError, "too large", ".rayignore"),
    "busy": (failure(429, "Too many requests"), BackendError, "not able to answer (429)", "again"),
    "proxy": ((200, "<html>welcome</html>"), BackendError, "no API server gives (200)", "kubectl version"),
    "teapot": (failure(418, "short and stout"), BackendError, "(418): short and stout", "kubectl version"),
}


@pytest.mark.parametrize("case", TABLE)
def test_a_refusal_says_what_and_what_to_do(kube, api, case):
    kube.fail_all, kind, what, hint = TABLE[case]
    with pytest.raises(RaymlError) as error:
        api.apply(JOB)
    assert isinstance(error.value, kind) and error.value.exit_code == kind.exit_code
    assert what in error.value.what and hint in error.value.hint
    assert "rayml" in error.value.where or kube.address in error.value.where


def test_nothing_tells_the_token(kube, api):
    api.get("RayJob", "rayml", "d")
    assert kube.headers[-1]["authorization"] == f"Bearer {TOKEN}"
    for status in (400, 403, 409, 418, 422, 500):
        kube.fail_all = failure(status, f"you have shown me Bearer {TOKEN}")
        with pytest.raises(RaymlError) as error:
            api.apply(JOB)
        assert TOKEN not in str(error.value) and "you have shown me" in str(error.value)


def test_a_list_and_a_log_are_refused_by_their_rights(kube, api):
    kube.fail_all = failure(403, "no")
    with pytest.raises(BackendError, match=r"may not list pods in the namespace rayml"):
        api.list("Pod", "rayml")
    with pytest.raises(BackendError, match=r"may not get pods/log in"):
        list(api.log("rayml", "p"))


def test_what_is_not_there(kube, api):
    assert api.get("RayJob", "rayml", "d") is None
    assert not api.delete("RayJob", "rayml", "d")
    kube.fail_all = failure(404, 'namespaces "rayml" not found', name="rayml", kind="namespaces")
    with pytest.raises(BackendError, match="no namespace"):
        api.get("RayJob", "rayml", "rayml")


def test_a_later_object_of_the_same_name_is_not_deleted(kube, api):
    kube.put("rayjobs", JOB)
    assert not api.delete("RayJob", "rayml", "d", uid="another")
    assert kube.kinds() == ["RayJob"]


@pytest.mark.parametrize(
    ("address", "why"),
    [("http://127.0.0.1:1", "connection refused"), ("http://no.such.host.invalid", "name is unknown")],
)
def test_a_server_that_is_not_there(kubeconfig, address, why):
    write_kubeconfig(kubeconfig, address)
    with pytest.raises(BackendError, match=why) as error:
        connect().get("RayJob", "rayml", "d")
    assert error.value.where == address


def test_a_server_without_tls(kube, kubeconfig):
    write_kubeconfig(kubeconfig, kube.address.replace("http:", "https:"))
    with pytest.raises(BackendError, match="speaks no TLS"):
        connect().get("RayJob", "rayml", "d")


@pytest.mark.parametrize(
    "text", ["", "a: [", f"users: {TOKEN}", f"current-context: x\nusers: [{{token: {TOKEN}}}]", None]
)
def test_a_kubeconfig_that_leads_nowhere(kubeconfig, text):
    kubeconfig.unlink() if text is None else kubeconfig.write_text(text)
    with pytest.raises(BackendError, match="kubectl config get-contexts") as error:
        connect()
    assert TOKEN not in str(error.value) and error.value.where == str(kubeconfig)


def test_a_context_that_is_not_there(kubeconfig):
    with pytest.raises(BackendError, match="nowhere"):
        connect("nowhere")


def test_without_the_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "kubernetes.config", None)
    with pytest.raises(RaymlError, match=r"pip install 'rayml\[kubernetes\]'"):
        connect()


def test_a_path_holds_no_path():
    assert Asked("get", "Pod", "a/b", "../c").path == "/api/v1/namespaces/a%2Fb/pods/..%2Fc"
