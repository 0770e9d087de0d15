"""Everything that kubectl renders is what the API server would take: known fields only, of the right types."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

SCHEMAS = Path(__file__).parents[3] / "shared" / "k8s-schemas"
CUSTOM = ("kueue.x-k8s.io/", "monitoring.coreos.com/")
PLURAL = {"ClusterQueue": "clusterqueues", "WorkloadPriorityClass": "workloadpriorityclasses"}


def kinds(documents: list[dict[str, Any]]) -> set[str]:
    return {document["kind"] for document in documents}


def title(document: dict[str, Any]) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def test_each_overlay_holds_what_it_promises(render):
    dev, gpu, prod = (kinds(render(f"overlays/{name}")) for name in ("dev", "gpu", "prod"))
    assert {"Namespace", "ServiceAccount", "Role", "ResourceQuota", "LimitRange", "NetworkPolicy"} <= dev
    assert not {"ClusterQueue", "PodMonitor"} & dev, "dev needs nothing but KubeRay"
    assert {"ResourceFlavor", "ClusterQueue", "LocalQueue", "PodMonitor", "PrometheusRule"} <= gpu
    assert gpu <= prod


def test_quotas_grow_from_dev_to_prod(render):
    def hard(name: str) -> dict[str, str]:
        (quota,) = (document for document in render(f"overlays/{name}") if document["kind"] == "ResourceQuota")
        return quota["spec"]["hard"]

    dev, gpu, prod = hard("dev"), hard("gpu"), hard("prod")
    assert int(dev["requests.cpu"]) < int(gpu["requests.cpu"]) < int(prod["requests.cpu"])
    assert (
        int(dev["requests.nvidia.com/gpu"])
        == 0
        < int(gpu["requests.nvidia.com/gpu"])
        < int(prod["requests.nvidia.com/gpu"])
    )
    for quota in (dev, gpu, prod):
        assert quota["services.loadbalancers"] == quota["services.nodeports"] == "0"


def test_quotas_count_what_kubernetes_counts(documents):
    """The schema takes any key here; the API server does not."""
    plain = {"pods", "persistentvolumeclaims", "services.loadbalancers", "services.nodeports"}
    measured = {"cpu", "memory", "ephemeral-storage", "storage", "nvidia.com/gpu"}
    for document in documents:
        if document["kind"] == "ResourceQuota":
            for key, value in document["spec"]["hard"].items():
                prefix, _, rest = key.partition("." if key.startswith(("requests.", "limits.")) else "/")
                counted = prefix in {"requests", "limits"} and rest in measured
                assert key in plain or counted or (prefix == "count" and rest.endswith(".ray.io")), key
                assert isinstance(value, str), f"{key}: {value} is a number to YAML"


def test_the_queue_never_admits_more_than_the_quota(render):
    for name in ("gpu", "prod"):
        documents = render(f"overlays/{name}")
        (quota,) = (document["spec"]["hard"] for document in documents if document["kind"] == "ResourceQuota")
        (queue,) = (document["spec"] for document in documents if document["kind"] == "ClusterQueue")
        (group,) = queue["resourceGroups"]
        for resource, limit in (("cpu", quota["requests.cpu"]), ("nvidia.com/gpu", quota["requests.nvidia.com/gpu"])):
            admitted = sum(
                int(entry["nominalQuota"])
                for flavor in group["flavors"]
                for entry in flavor["resources"]
                if entry["name"] == resource
            )
            assert admitted <= int(limit), f"{name}: {resource} {admitted} is admitted, and {limit} may run"


def test_every_flavor_of_the_queue_is_there(render):
    for name in ("components/kueue", "overlays/gpu", "overlays/prod"):
        documents = render(name)
        (queue,) = (document["spec"] for document in documents if document["kind"] == "ClusterQueue")
        used = {flavor["name"] for group in queue["resourceGroups"] for flavor in group["flavors"]}
        assert used == {document["metadata"]["name"] for document in documents if document["kind"] == "ResourceFlavor"}


def test_core_kinds_are_valid(documents):
    validate = pytest.importorskip(
        "kubernetes_validate", reason="no schemas of the core kinds: pip install kubernetes-validate"
    ).validate
    for document in documents:
        if not document["apiVersion"].startswith(CUSTOM):
            validate(document, "1.37", strict=True)


def strict(schema: Any) -> Any:
    """The same schema, refusing fields it does not name, as the API server does with strict field validation."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def custom_schema(document: dict[str, Any]) -> dict[str, Any]:
    group, version = document["apiVersion"].split("/")
    plural = PLURAL.get(document["kind"], document["kind"].lower() + "s")
    crd = json.loads((SCHEMAS / f"{group}_{plural}.json").read_text())
    (found,) = (entry for entry in crd["spec"]["versions"] if entry["name"] == version and entry["served"])
    schema = copy.deepcopy(found["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return strict(schema)


def test_custom_resources_are_valid(documents):
    if not SCHEMAS.is_dir():
        pytest.skip(f"no schemas of Kueue's and Prometheus' kinds: {SCHEMAS.name} is not there")
    for document in documents:
        if document["apiVersion"].startswith(CUSTOM):
            errors = list(jsonschema.Draft202012Validator(custom_schema(document)).iter_errors(document))
            assert not errors, f"{title(document)}: {errors[0].json_path}: {errors[0].message}"


def test_an_unknown_field_is_found(render):
    if not SCHEMAS.is_dir():
        pytest.skip(f"no schemas of Kueue's and Prometheus' kinds: {SCHEMAS.name} is not there")
    (monitor, *_) = (d for d in render("overlays/gpu") if d["kind"] == "PodMonitor")
    wrong = copy.deepcopy(monitor)
    wrong["spec"]["podMetricsEndpoints"][0]["intervall"] = "15s"
    (error,) = jsonschema.Draft202012Validator(custom_schema(wrong)).iter_errors(wrong)
    assert "intervall" in error.message


def test_no_name_twice(whole):
    names = [(d["apiVersion"], d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in whole]
    assert len(names) == len(set(names))


def test_everything_says_whose_it_is(documents):
    for document in documents:
        assert document["metadata"]["labels"]["app.kubernetes.io/part-of"] == "rayml", title(document)
