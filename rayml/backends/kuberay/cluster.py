"""The RayCluster spec that a RayJob, a RayService and a RayCluster share.

Source: `ValidateRayClusterSpec` (ray-operator/controllers/ray/utils/validation.go). `upgradeStrategy` stands only in a
RayCluster of its own (long_lived.py): the controller refuses it where a RayJob or RayService made the cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from rayml.backends.kuberay.pods import (
    HOME,
    TMP,
    USER,
    Document,
    EndpointPods,
    container_security,
    equal_resources,
    head_template,
    named,
    worker_template,
)
from rayml.backends.kuberay.quantities import seconds
from rayml.spec.kuberay import GroupSpec, KubeRayCluster, PodSpec, RedisSpec

AUTOSCALER_RESOURCES = {"cpu": "500m", "memory": "512Mi"}
AUTOSCALER_IDLE_S = 60
OBJECTS_SHARE = 0.9
"""Of /dev/shm. The rest is for NCCL and torch; a store larger than what is there would fall back to the disk."""


def scales(cluster: KubeRayCluster) -> bool:
    """Whether the autoscaler runs. Not in a queue, which admits all pods at once or none: there, the cluster is at its
    largest from the start. Kueue refuses a job that scales (pkg/controller/jobs/raycluster/raycluster_webhook.go)."""
    return cluster.queue is None


def cluster_spec(
    cluster: KubeRayCluster,
    plan: str | None = None,
    package: str | None = None,
    notes: dict[str, str] | None = None,
    endpoint: EndpointPods | None = None,
    head_variables: Sequence[Document] = (),
) -> Document:
    """A RayCluster spec.

    Args:
        plan: name of the ConfigMap that the head mounts at /etc/rayml; None for none.
        package: name of the ConfigMap that workers mount there; None for none.
        notes: annotations of all pods.
        endpoint: the one that it belongs to; None for none.
        head_variables: of the head's environment.
    """
    spec: Document = {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token", "secretName": cluster.auth},
        "enableInTreeAutoscaling": scales(cluster),
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {**start_parameters(cluster.head), "num-cpus": "0"},
            "template": head_template(
                cluster,
                scales(cluster),
                plan,
                notes or {},
                (*(endpoint.variables if endpoint else ()), *head_variables),
            ),
        },
        "workerGroupSpecs": [group_spec(cluster, group, package, notes or {}, endpoint) for group in cluster.groups],
    }
    if scales(cluster):
        spec["autoscalerOptions"] = autoscaler_options()
    if cluster.redis is not None:
        spec["gcsFaultToleranceOptions"] = fault_tolerance(cluster.redis)
    return spec


def start_parameters(size: PodSpec) -> dict[str, str]:
    """What `ray start` is told; every value is text, and none needs quoting in the shell that KubeRay puts it into."""
    told = {"num-cpus": str(size.cpus), "object-store-memory": str(int(size.shared_memory * OBJECTS_SHARE))}
    return {**told, "num-gpus": str(size.gpus)} if size.gpus else told


def group_spec(
    cluster: KubeRayCluster, group: GroupSpec, package: str | None, notes: dict[str, str], endpoint: EndpointPods | None
) -> Document:
    """A group of workers: from `min` to `max`, or `max` of them where the cluster does not scale."""
    smallest = group.min if scales(cluster) else group.max
    spec: Document = {
        "groupName": group.name,
        "replicas": smallest,
        "minReplicas": smallest,
        "maxReplicas": group.max,
        "rayStartParams": start_parameters(group),
        "template": worker_template(cluster, group, package, notes, endpoint),
    }
    if scales(cluster):
        spec["idleTimeoutSeconds"] = seconds(group.idle)
    return spec


def autoscaler_options() -> Document:
    """The container that KubeRay adds to the head's pod. It mounts the head's volumes: the root is read-only here too.
    Its token comes from `authOptions`; a second one in `env` would stand there twice."""
    return {
        "version": "v2",
        "upscalingMode": "Default",
        "idleTimeoutSeconds": AUTOSCALER_IDLE_S,
        "imagePullPolicy": "IfNotPresent",
        "env": named({"HOME": HOME, "USER": USER, "PYTHONDONTWRITEBYTECODE": "1"}),
        "resources": equal_resources(AUTOSCALER_RESOURCES),
        "securityContext": container_security(),
        "volumeMounts": [{"name": "tmp", "mountPath": TMP}, {"name": "home", "mountPath": HOME}],
    }


def fault_tolerance(redis: RedisSpec) -> Document:
    """Where the head keeps what the cluster knows."""
    if redis.password is None:
        return {"redisAddress": redis.address}
    reference = {"name": redis.password, "key": "password"}
    return {"redisAddress": redis.address, "redisPassword": {"valueFrom": {"secretKeyRef": reference}}}
