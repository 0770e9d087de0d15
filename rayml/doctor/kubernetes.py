"""Kubernetes for a cluster file of kind kuberay: a kubeconfig, an API server that answers, KubeRay, GPUs, the image."""

from __future__ import annotations

from typing import Any

from rayml.backends.kuberay.api import KubeApi, connect
from rayml.doctor.finding import Finding, ok, refused, warning, wrong
from rayml.errors import RaymlError
from rayml.spec.kuberay import KubeRayCluster
from rayml.spec.words import count

GPU_KEYS = ("requests.nvidia.com/gpu", "limits.nvidia.com/gpu")


def look(cluster: KubeRayCluster) -> list[Finding]:
    """All that can be asked without making anything."""
    try:
        api = connect()
        version = api.document("/version").get("gitVersion", "of an unknown version")
    except RaymlError as error:
        return [refused("kubernetes", error)]
    return [ok("kubernetes", f"{api.server} answers, {version}"), *kuberay(api, cluster), *quota(api, cluster)]


def kuberay(api: KubeApi, cluster: KubeRayCluster) -> list[Finding]:
    """KubeRay is there, and what runs in the namespace has the file's image."""
    try:
        running = api.list("RayCluster", cluster.namespace)
    except RaymlError as error:
        return [refused("kuberay", error)]
    clusters = ok("kuberay", f"{count(len(running), 'RayCluster')} in the namespace {cluster.namespace}")
    others = {
        image
        for each in running
        for image in images(each.get("spec") or {})
        if image.partition("@")[0] == cluster.image.partition("@")[0] and image != cluster.image
    }
    if others:
        what = f"clusters in {cluster.namespace} run another image than the file's: {', '.join(sorted(others))}"
        hint = f"submit again once they are gone, or put that digest into the file: image: {sorted(others)[0]}"
        return [clusters, warning("image", what, hint)]
    return [clusters, ok("image", f"no cluster in {cluster.namespace} runs another digest of it")]


def images(spec: dict[str, Any]) -> list[str]:
    """The images of a RayCluster's pods."""
    groups = [spec.get("headGroupSpec") or {}, *(spec.get("workerGroupSpecs") or [])]
    pods = [((group.get("template") or {}).get("spec") or {}) for group in groups]
    return [str(container.get("image")) for pod in pods for container in pod.get("containers") or []]


def quota(api: KubeApi, cluster: KubeRayCluster) -> list[Finding]:
    """GPUs that the namespace's quotas leave, against what the file asks for."""
    if not cluster.gpus:
        return []
    try:
        found = api.document(f"/api/v1/namespaces/{cluster.namespace}/resourcequotas").get("items") or []
    except RaymlError as error:
        hint = f"kubectl auth can-i list resourcequotas -n {cluster.namespace}; ask the admin for it"
        return [warning("gpu quota", f"it cannot be read: {error.what}", hint)]
    return [quota_leaves(found, cluster.gpus, cluster.namespace)]


def quota_leaves(quotas: list[dict[str, Any]], wanted: int, namespace: str) -> Finding:
    """Whether so many GPUs fit into what the quotas say."""
    limits = [
        (int(status["hard"][key]), int((status.get("used") or {}).get(key, 0)))
        for status in (each.get("status") or {} for each in quotas)
        for key in GPU_KEYS
        if str((status.get("hard") or {}).get(key, "")).isdigit()
    ]
    if not limits:
        return ok("gpu quota", f"no quota for GPUs in {namespace}")
    hard, used = min(limits, key=lambda limit: limit[0] - limit[1])
    text = f"the quota gives {count(hard, 'GPU')}, {used} in use, and the cluster file takes up to {wanted}"
    hint = f"give the groups a smaller `max`, or ask the admin: kubectl describe quota -n {namespace}"
    if hard < wanted:
        return wrong("gpu quota", text, hint)
    return warning("gpu quota", text, hint) if hard - used < wanted else ok("gpu quota", text)
