"""Rendered documents against the schemas of KubeRay and Kubernetes, Pod Security `restricted`, and rayml's own lint."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import jsonschema
import pytest
from kuberay_jobs import CLUSTERS, JOBS, SCHEMAS, cluster_file, cluster_of, plan_of, pod_templates, ray_cluster

from rayml.backends.kuberay.request import render
from rayml.lint.lint import lint_documents

CASES = {
    **{f"{cluster}-{kind}": (cluster, kind, {}) for cluster in CLUSTERS for kind in ("job", "service", "cluster")},
    "cron": ("cpu-sweep", "job", {"schedule": {"cron": "0 3 * * *", "time_zone": "Europe/Berlin"}}),
    "volcano": ("cpu-sweep", "job", {"queue": {"kind": "volcano", "name": "research", "priority": "rayml-train"}}),
    "deadline": ("cpu-sweep", "job", {"finish": {"deadline": "2h"}, "submission": "k8s_job"}),
    "redis": ("cpu-sweep", "job", {"redis": {"address": "rediss://redis:6379"}}),
    "incremental": ("cpu-sweep", "service", {"upgrade": "incremental", "gateway_class": "istio"}),
    "kueue-http": ("gpu-a100", "job", {"submission": "http"}),
}


def rendered(case: str):
    cluster, kind, changes = CASES[case]
    return render(plan_of("digits", cluster), cluster_of(changes)(cluster), "digits-1", kind)


def strict(schema: Any) -> Any:
    """A structural schema that refuses fields which it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    open_to_all = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not open_to_all:
        closed["additionalProperties"] = False
    return closed


@cache
def ray_schema(kind: str) -> jsonschema.Draft202012Validator:
    path = SCHEMAS / f"ray.io_{kind.lower()}s.json"
    if not path.exists():
        pytest.skip(f"the schemas of KubeRay are not at {SCHEMAS}")
    versions = json.loads(path.read_text())["spec"]["versions"]
    schema = next(version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    return jsonschema.Draft202012Validator(strict(schema))


@pytest.mark.parametrize("case", CASES)
def test_ray_documents_fit_the_schemas_of_kuberay(case):
    for document in rendered(case).documents:
        if document["apiVersion"].startswith("ray.io/"):
            ray_schema(document["kind"]).validate(document)


def test_the_schema_refuses_a_field_that_it_does_not_name():
    (document,) = rendered("cpu-sweep-cluster").documents
    document["spec"]["headGroupSpec"]["templates"] = {}
    with pytest.raises(jsonschema.ValidationError, match="templates"):
        ray_schema("RayCluster").validate(document)


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_takes_pods_and_the_rest(case):
    validate = pytest.importorskip("kubernetes_validate").validate
    for document in rendered(case).documents:
        if not document["apiVersion"].startswith("ray.io/"):
            validate(document, "1.37", strict=True)
        for template in pod_templates(document):
            validate({"apiVersion": "v1", "kind": "Pod", **template}, "1.37", strict=True)


@pytest.mark.parametrize("case", CASES)
def test_our_own_lint_finds_nothing(case):
    request = rendered(case)
    schemas = SCHEMAS if SCHEMAS.exists() else None
    found = lint_documents(request.documents, schemas=schemas, gates=dict.fromkeys(request.gates, True))
    assert not found, "\n".join(map(str, found))


def test_every_job_passes_the_lint():
    for job in JOBS:
        for cluster in CLUSTERS:
            documents = render(plan_of(job.stem, cluster), cluster_file(cluster), f"{job.stem}-1").documents
            found = lint_documents(documents)
            assert not found, "\n".join(map(str, found))


def faults(template: dict[str, Any], sidecars: list[dict[str, Any]]) -> list[str]:
    """What Pod Security `restricted` and rayml's own rules (S28, S29, S32) would say of a pod."""
    spec = template["spec"]
    pod = spec["securityContext"]
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC", "initContainers") if name in spec]
    found += [f"volume {each}" for each in spec["volumes"] if not {"emptyDir", "configMap"} & set(each)]
    if not (pod["runAsNonRoot"] is True and pod["runAsUser"] >= 10_000 and pod["fsGroup"] >= 10_000):
        found.append("user")
    if pod["seccompProfile"] != {"type": "RuntimeDefault"}:
        found.append("seccomp")
    for container in [*spec["containers"], *sidecars]:
        context, resources = container["securityContext"], container["resources"]
        if context["allowPrivilegeEscalation"] or context["capabilities"] != {"drop": ["ALL"]}:
            found.append("rights")
        if not context["readOnlyRootFilesystem"]:
            found.append("root file system")
        if resources["limits"] != resources["requests"] or "memory" not in resources["limits"]:
            found.append("memory")
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        if not {"/tmp", "/home/rayml"} <= mounted:
            found.append("nowhere to write")
        if container["imagePullPolicy"] != "IfNotPresent":
            found.append("pull policy")
    for container in spec["containers"]:
        if not re.search(r"@sha256:[0-9a-f]{64}$", container["image"]):
            found.append("image")
    return found


SPOILED = [
    (("spec", "hostNetwork"), True, "hostNetwork"),
    (("spec", "securityContext", "runAsUser"), 1000, "user"),
    (("spec", "securityContext", "seccompProfile"), {"type": "Unconfined"}, "seccomp"),
    (("spec", "volumes", 0), {"name": "tmp", "hostPath": {"path": "/"}}, "volume"),
    (("spec", "containers", 0, "securityContext", "allowPrivilegeEscalation"), True, "rights"),
    (("spec", "containers", 0, "securityContext", "readOnlyRootFilesystem"), False, "root file system"),
    (("spec", "containers", 0, "resources", "limits"), {"memory": "1Gi"}, "memory"),
    (("spec", "containers", 0, "image"), "rayml:latest", "image"),
]


@pytest.mark.parametrize(("path", "value", "words"), SPOILED, ids=[words for *_, words in SPOILED])
def test_the_checker_sees_what_is_wrong(path, value, words):
    (document,) = rendered("cpu-sweep-cluster").documents
    place = template = pod_templates(document)[0]
    assert not faults(template, [])
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert words in " ".join(faults(template, []))


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_restricted(case):
    for document in rendered(case).documents:
        cluster = ray_cluster(document)
        templates = pod_templates(document)
        assert bool(templates) == (cluster is not None)
        sidecars = [cluster["autoscalerOptions"]] if cluster and "autoscalerOptions" in cluster else []
        for template in templates:
            assert not faults(template, sidecars)
            assert template["spec"]["restartPolicy"] == "Never"
            assert template["spec"]["terminationGracePeriodSeconds"] > 60


@pytest.mark.parametrize("case", CASES)
def test_only_a_head_that_scales_holds_a_token_of_the_kubernetes_api(case):
    for document in rendered(case).documents:
        cluster = ray_cluster(document)
        head = cluster and cluster["headGroupSpec"]["template"]
        for template in pod_templates(document):
            is_scaling_head = template is head and cluster["enableInTreeAutoscaling"]
            assert template["spec"]["automountServiceAccountToken"] is bool(is_scaling_head)


@pytest.mark.parametrize("case", CASES)
def test_the_token_is_a_reference_and_asked_for_everywhere(case):
    for document in rendered(case).documents:
        cluster = ray_cluster(document)
        if cluster is not None:
            assert cluster["authOptions"] == {"mode": "token", "secretName": "rayml-ray-token"}
            assert cluster["rayVersion"]
        for template in pod_templates(document):
            env = {each["name"]: each for each in template["spec"]["containers"][0]["env"]}
            reference = {"secretKeyRef": {"name": "rayml-ray-token", "key": "auth_token"}}
            assert env["RAY_AUTH_TOKEN"] == {"name": "RAY_AUTH_TOKEN", "valueFrom": reference}
            assert env["RAY_AUTH_MODE"]["value"] == "token"
