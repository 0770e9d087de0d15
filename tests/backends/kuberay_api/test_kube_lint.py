"""`rayml lint --from-cluster`: manifests against what the API server says that it takes."""

from __future__ import annotations

import copy
import json
import sys

import pytest
import yaml
from fake_kube import SCHEMAS, failure
from kubeconfigs import write_kubeconfig
from kuberay_jobs import ROOT, cluster_of, plan_of

from rayml import cli
from rayml.backends.kuberay.request import render
from rayml.lint.openapi import kinds_of

BUDGET = "io.k8s.api.policy.v1.PodDisruptionBudget"
SELECTOR = "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
NODE = "io.k8s.apiextensions.Node"


def refer(name, **beside):
    reference = {"$ref": f"#/components/schemas/{name}"}
    return {"allOf": [reference], **beside} if beside else reference


def named(kind, group="", version="v1"):
    return {"x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": kind}]}


TEXT = {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": {"type": "string", "default": ""}}
TYPED = {"apiVersion": TEXT, "kind": TEXT, "metadata": refer("ObjectMeta", default={})}
POLICY = {
    BUDGET: {
        "type": "object",
        "properties": {
            **TYPED,
            "spec": refer(f"{BUDGET}Spec", default={}),
            "status": refer(f"{BUDGET}Status", default={}),
        },
        **named("PodDisruptionBudget", "policy"),
    },
    f"{BUDGET}Spec": {
        "type": "object",
        "properties": {
            "minAvailable": refer(INT_OR_STRING),
            "selector": refer(SELECTOR),
            "unhealthyPodEvictionPolicy": TEXT,
        },
    },
    f"{BUDGET}Status": {
        "type": "object",
        "required": ["currentHealthy"],
        "properties": {"currentHealthy": {"type": "integer", "format": "int32", "default": 0}},
    },
    SELECTOR: {"type": "object", "properties": {"matchLabels": TEXTS}},
    INT_OR_STRING: {"format": "int-or-string", "oneOf": [{"type": "integer"}, TEXT]},
    "ObjectMeta": {"type": "object"},
}
CORE = {
    "ConfigMap": {
        "type": "object",
        "properties": {
            **TYPED,
            "data": TEXTS,
            "binaryData": {"type": "object", "additionalProperties": {"type": "string", "format": "byte"}},
            "immutable": {"type": "boolean"},
        },
        **named("ConfigMap"),
    },
    "ObjectMeta": {"type": "object"},
}


def openapi(types):
    return {"openapi": "3.0.0", "components": {"schemas": types}}


@pytest.fixture
def rayml(monkeypatch, capsys, kubeconfig):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rayml", "lint", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def knows(kube):
    """A cluster with KubeRay, whose definitions take three pages."""
    if not SCHEMAS.is_dir():
        pytest.skip(f"the CRDs of KubeRay are not at {SCHEMAS}")
    kube.definitions = [json.loads(path.read_text()) for path in sorted(SCHEMAS.glob("ray.io_*.json"))]
    kube.definitions += [{"kind": "CustomResourceDefinition", "spec": {"group": "x.io", "names": {"kind": "X"}}}] * 2
    kube.documents = {
        "/openapi/v3": {
            "paths": {
                "api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=A1"},
                "apis/policy/v1": {"serverRelativeURL": "/openapi/v3/apis/policy/v1?hash=B2"},
            }
        },
        "/openapi/v3/api/v1": openapi(CORE),
        "/openapi/v3/apis/policy/v1": openapi(POLICY),
    }
    return kube


@pytest.fixture
def manifests(tmp_path):
    """What is rendered for a job and its endpoint, and a way to spoil it."""
    plan, cluster = plan_of("digits", "cpu-sweep"), cluster_of({})("cpu-sweep")
    documents = [each for kind in ("job", "service") for each in render(plan, cluster, "digits-1", kind).documents]

    def write(spoil=lambda by_kind: None):
        changed = copy.deepcopy(documents)
        spoil({each["kind"]: each for each in changed})
        path = tmp_path / "manifests.yaml"
        path.write_text(yaml.safe_dump_all(changed))
        return path

    return write


def test_what_is_rendered_fits_the_cluster(knows, rayml, manifests):
    code, out, err = rayml(manifests(), "--from-cluster")
    assert (code, err) == (0, "") and out.startswith("0 errors")
    asked = [path for _, path in knows.requests]
    assert sum("customresourcedefinitions" in path for path in asked) == 3, "all pages"
    assert sum(path.startswith("/openapi/v3/") for path in asked) == 2, "each document once"


SPOILED = {
    "a field that KubeRay there does not know": (
        lambda found: found["RayJob"]["spec"].update(entrypoints="x"),
        "spec.entrypoints",
    ),
    "a field that a kind built in does not have": (
        lambda found: found["ConfigMap"].update(datas={}),
        "did you mean `data`?",
    ),
    "a type, behind two references": (
        lambda found: found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].update(a=1),
        "spec.selector.matchLabels.a: a number, where text fits",
    ),
    "neither number nor text": (
        lambda found: found["PodDisruptionBudget"]["spec"].update(minAvailable=[]),
        "spec.minAvailable: a list, where a whole number or text fits",
    ),
    "a version that is not served": (
        lambda found: found["RayService"].update(apiVersion="ray.io/v9"),
        "no version of RayService",
    ),
    "a kind that is not installed": (
        lambda found: found["RayJob"].update(apiVersion="kueue.x-k8s.io/v1beta1", kind="LocalQueue"),
        "the cluster knows no LocalQueue of kueue.x-k8s.io/v1beta1",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_does_not_fit_is_found(knows, rayml, manifests, case):
    spoil, what = SPOILED[case]
    code, out, _ = rayml(manifests(spoil), "--from-cluster")
    assert code == 2 and what in out


def test_an_older_kuberay_is_what_counts(knows, rayml, manifests):
    """The same file fits our own models, and not the cluster, which lacks a field."""
    path = manifests()
    (job,) = (each for each in knows.definitions if each["spec"]["names"]["kind"] == "RayJob")
    for version in job["spec"]["versions"]:
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"].pop("deletionStrategy", None)
    assert rayml(path)[0] == 0
    code, out, _ = rayml(path, "--from-cluster")
    assert code == 2 and "spec.deletionStrategy" in out


def test_a_kustomization_is_not_for_the_cluster(knows, rayml, tmp_path):
    path = tmp_path / "kustomization.yaml"
    path.write_text("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a.yaml]\n")
    assert rayml(path, "--from-cluster")[0] == 0


def test_rights_that_are_missing_are_said_with_what_to_type(kube, rayml, manifests):
    kube.fail_all = failure(403, 'customresourcedefinitions is forbidden: User "jane" cannot list resource')
    code, out, err = rayml(manifests(), "--from-cluster")
    assert (code, out) == (5, "")
    assert "you may not list customresourcedefinitions.apiextensions.k8s.io" in err and 'User "jane"' in err
    assert "--verb=list --resource=customresourcedefinitions.apiextensions.k8s.io" in err
    assert "create clusterrolebinding rayml-lint" in err


def test_openapi_that_may_not_be_read_or_is_not_there(knows, rayml, manifests):
    del knows.documents["/openapi/v3"]
    code, _, err = rayml(manifests(), "--from-cluster")
    assert code == 5 and "the server has no /openapi/v3" in err
    knows.documents["/openapi/v3"] = {"paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v2?hash=1"}}}
    code, _, err = rayml(manifests(), "--from-cluster")
    assert code == 5 and "/openapi/v3/api/v2" in err and "hash" not in err


def test_a_server_that_is_not_there(rayml, manifests, kubeconfig):
    write_kubeconfig(kubeconfig, "http://127.0.0.1:1")
    code, _, err = rayml(manifests(), "--from-cluster")
    assert code == 5 and "http://127.0.0.1:1: the Kubernetes API server cannot be reached: connection refused" in err


def test_a_context_that_is_not_there(rayml, manifests):
    code, _, err = rayml(manifests(), "--from-cluster", "--context", "nowhere")
    assert code == 5 and "nowhere" in err


@pytest.mark.parametrize("options", [("--from-cluster", "--schemas", str(ROOT)), ("--context", "x")])
def test_options_that_exclude_each_other(rayml, manifests, options):
    code, _, err = rayml(manifests(), *options)
    assert code == 2 and "--schemas DIR, or --from-cluster" in " ".join(err.split()).replace("│ ", "").replace(" │", "")


def test_a_type_that_contains_itself_ends():
    types = {
        NODE: {
            "type": "object",
            "properties": {"not": refer(NODE), "name": TEXT, "cpu": {"oneOf": [TEXT, {"type": "number"}]}},
            **named("Node", "x.io"),
        }
    }
    schema = kinds_of(openapi(types))["x.io", "v1", "Node"]
    assert schema["properties"]["name"] == TEXT
    assert schema["properties"]["not"]["properties"]["not"] == {"x-kubernetes-preserve-unknown-fields": True}
    assert "type" not in schema["properties"]["cpu"]
