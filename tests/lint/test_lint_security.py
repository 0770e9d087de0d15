"""The checks of our own on manifests: access, exposure, entrypoints, pods, service accounts, images."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lint_manifests import MAKERS, REMOVE, ray_cluster, ray_cron_job, ray_job, ray_service, spoiled

from rayml.lint.documents import rendered
from rayml.lint.entrypoint import fault
from rayml.lint.security import check_security, quantity

POD = "spec/workerGroupSpecs/0/template/spec"
HEAD = "spec/headGroupSpec"
CONTAINER = f"{POD}/containers/0"


def ray_autoscaling():
    return ray_cluster(autoscaling=True)


def service():
    spec = {"type": "NodePort", "ports": [{"name": "serve", "port": 8000, "targetPort": 8000}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec}


def ingress():
    backend = {"service": {"name": "a", "port": {"number": 8000}}}
    rules = [{"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "a"},
        "spec": {"rules": rules},
    }


def route():
    rules = [{"backendRefs": [{"name": "a", "port": 8000}]}]
    return {"apiVersion": "x/v1", "kind": "HTTPRoute", "metadata": {"name": "a"}, "spec": {"rules": rules}}


BACKEND = "spec/rules/0/http/paths/0/backend/service/port"
DIGEST = f"a@sha256:{'0' * 64}"

CASES = [
    # rule, severity, document, what breaks it, what does not
    ("auth", "error", ray_cluster, {"spec/authOptions": REMOVE}, {}),
    ("auth", "error", ray_cluster, {"spec/authOptions/mode": "disabled"}, {}),
    ("auth", "error", ray_job, {"spec/rayClusterSpec/authOptions": REMOVE}, {}),
    ("auth", "error", ray_service, {"spec/rayClusterConfig/authOptions": REMOVE}, {}),
    ("auth", "error", ray_cron_job, {"spec/jobTemplate/rayClusterSpec/authOptions": REMOVE}, {}),
    ("exposed", "error", ray_cluster, {f"{HEAD}/serviceType": "LoadBalancer"}, {f"{HEAD}/serviceType": "ClusterIP"}),
    ("exposed", "error", ray_cluster, {f"{HEAD}/headService": {"spec": {"type": "NodePort"}}}, {}),
    ("exposed", "error", ray_cluster, {f"{HEAD}/enableIngress": True}, {f"{HEAD}/enableIngress": False}),
    ("exposed", "error", service, {"spec/ports/0/port": 8265}, {"spec/ports/0/port": 8266}),
    ("exposed", "error", service, {"spec/ports/0/targetPort": 10001}, {}),
    ("exposed", "error", service, {"spec/ports/0/targetPort": "6379"}, {"spec/ports/0/targetPort": "http"}),
    ("exposed", "error", service, {"spec/ports/0/name": "dashboard"}, {"spec/ports/0/name": "web"}),
    (
        "exposed",
        "error",
        service,
        {"spec/ports/0/port": 6379, "spec/type": "ClusterIP", "spec/externalIPs": ["192.0.2.1"]},
        {"spec/ports/0/port": 6379, "spec/type": "ClusterIP"},
    ),
    ("exposed", "error", ingress, {f"{BACKEND}/number": 8265}, {}),
    ("exposed", "error", ingress, {BACKEND: {"name": "ray-dashboard"}}, {BACKEND: {"name": "serve"}}),
    ("exposed", "error", route, {"spec/rules/0/backendRefs/0/port": 10001}, {}),
    ("entrypoint", "error", ray_job, {"spec/entrypoint": "python x.py; rm -rf /"}, {"spec/entrypoint": "python x.py"}),
    ("entrypoint", "error", ray_cron_job, {"spec/jobTemplate/entrypoint": "echo $(id)"}, {}),
    ("uid", "error", ray_cluster, {f"{POD}/securityContext/runAsUser": 1000}, {}),
    ("uid", "error", ray_cluster, {f"{CONTAINER}/securityContext/runAsUser": 999}, {}),
    ("uid", "warning", ray_cluster, {f"{POD}/securityContext/runAsUser": REMOVE}, {}),
    ("filesystem", "warning", ray_cluster, {f"{CONTAINER}/securityContext/readOnlyRootFilesystem": False}, {}),
    ("shm", "warning", ray_cluster, {f"{CONTAINER}/volumeMounts": []}, {}),
    ("shm", "warning", ray_cluster, {f"{POD}/volumes/0/emptyDir": {"medium": "Memory"}}, {}),
    ("shm", "warning", ray_cluster, {f"{POD}/volumes/0/emptyDir/medium": ""}, {}),
    ("shm", "warning", ray_cluster, {f"{POD}/volumes": []}, {}),
    ("memory", "warning", ray_cluster, {f"{CONTAINER}/resources": {}}, {}),
    (
        "memory",
        "warning",
        ray_cluster,
        {f"{CONTAINER}/resources/requests/memory": "1Gi"},
        {f"{CONTAINER}/resources/requests/memory": REMOVE},
    ),
    ("service-account", "error", ray_cluster, {f"{POD}/automountServiceAccountToken": True}, {}),
    ("service-account", "warning", ray_cluster, {f"{POD}/automountServiceAccountToken": REMOVE}, {}),
    ("service-account", "error", ray_autoscaling, {f"{HEAD}/template/spec/automountServiceAccountToken": False}, {}),
    ("image", "warning", ray_cluster, {f"{CONTAINER}/image": "a:1"}, {f"{CONTAINER}/image": DIGEST}),
    ("image", "warning", ray_autoscaling, {"spec/autoscalerOptions/image": "a"}, {}),
]


def remarks(document, name):
    return [remark for remark in check_security(rendered(document, 1)) if remark.rule == f"security.{name}"]


@pytest.mark.parametrize(("name", "severity", "make", "bad", "good"), CASES)
def test_rule(name, severity, make, bad, good):
    assert severity in {remark.severity for remark in remarks(spoiled(make(), bad), name)}
    assert remarks(spoiled(make(), good), name) == []


@pytest.mark.parametrize("kind", MAKERS)
def test_good_documents(kind):
    assert check_security(rendered(MAKERS[kind](), 1)) == []


GOOD_ENTRYPOINTS = [
    "python train.py",
    "python -m rayml.run.driver --spec /etc/job.json",
    "python 'a b.py' --name \"it's\" --umlaut jörg",
    "python -c 'import os; print(\"$HOME\")'",
    'python "a;b" a\\;b',
    "env A=1 python x.py",
    "python --a=b,c@d%e:f+g",
]
BAD_ENTRYPOINTS = [
    "python x.py; rm -rf /",
    "python x.py && id",
    "python x.py | tee log",
    "python $(id)",
    "python `id`",
    "python $HOME/x.py",
    'python "$HOME/x.py"',
    'python "`id`"',
    "python x.py > log",
    "python x.py < in",
    "python x.py &",
    "python *.py",
    "python x?.py",
    "python ~/x.py",
    "python {a,b}.py",
    "python (x)",
    "python x.py # now",
    "python x.py\nid",
    "python x.py\rid",
    "python x.py \\\nid",
    "python 'x.py",
    'python "x.py',
    "python x.py \\",
    "A=1 python x.py",
    "",
    "   ",
    "python \0",
]


@pytest.mark.parametrize("text", GOOD_ENTRYPOINTS)
def test_good_entrypoints(text):
    assert fault(text) is None


@pytest.mark.parametrize("text", BAD_ENTRYPOINTS)
def test_bad_entrypoints(text):
    assert fault(text)


WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@given(WORDS)
def test_what_shlex_joins_is_good(argv):
    text = shlex.join(["python", *argv])
    assert fault(text) is None


@settings(max_examples=40, deadline=None)
@given(st.text(st.sampled_from("ab '\"\\$`;|&<>(){}[]*?~#!=\n"), min_size=1, max_size=12))
def test_bash_makes_the_same_words_of_what_is_good(text):
    entrypoint = f"printf '%s\\0' {text}"
    if fault(entrypoint) is not None:
        return
    done = subprocess.run(["bash", "-c", entrypoint], capture_output=True, timeout=20, check=True, cwd=sys.prefix)
    expected = shlex.split(entrypoint)[2:] or [""]
    assert done.stdout.decode().split("\0")[:-1] == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1Gi", "1024Mi", True),
        ("1e9", "1G", True),
        (1000, "1k", True),
        ("500m", "0.5", True),
        ("1Gi", "1G", False),
        ("1E", "1e18", True),
    ],
)
def test_quantities(one, other, same):
    assert (quantity(one) == quantity(other)) is same


@pytest.mark.parametrize("value", ["", "x", "1 Gi", "1GB", None, [], "-1", "1e", ".", "1" * 99])
def test_no_quantities(value):
    assert quantity(value) is None
