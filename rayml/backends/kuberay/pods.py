"""Pod templates that Pod Security `restricted` lets in, for the head, groups of workers, and whoever submits.

The root file system is read-only. What Ray and Python write goes to emptyDirs: /tmp (Ray's session is /tmp/ray, where
KubeRay mounts the logs that head and autoscaler share, so `--temp-dir` and RAY_TMPDIR are left alone: a session
elsewhere would have no autoscaler log), HOME (caches of torch and others) and /dev/shm, in memory and with a size.

No preStop: `ray drain-node` is an internal command that wants the node's id, and asking for that starts a driver on the
node that is to be emptied. From Ray 2.60 on it is not needed: `ray start --block` drains its node on SIGTERM and waits
as long as RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S says (ray/_private/ray_constants.py). KubeRay's `bash -c` does not keep
the signal: bash replaces itself by the last command. An earlier Ray ends at once; the run goes on from its checkpoint.

Sources: ray-operator/controllers/ray/common/pod.go (DefaultHeadPodTemplate, DefaultWorkerPodTemplate, BuildPod,
SetContainerTokenAuthEnvVars) and .../common/job.go of KubeRay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayml.backends.kuberay.quantities import quantity
from rayml.spec.kuberay import GroupSpec, HeadSpec, KubeRayCluster, PodSpec, TolerationSpec

Document = dict[str, Any]

USER_ID = 10001
USER = "rayml"
HOME = "/home/rayml"
"""Not /home/ray: images of Ray keep Python there, and a mount would hide it."""
SHM = "/dev/shm"  # noqa: S108  a mount point in a pod
TMP = "/tmp"  # noqa: S108  a mount point in a pod

DRAIN_S = 60
"""How long a node that is to go waits for its work."""
GRACE_S = 90
"""Until a pod is killed: longer than the drain, shorter than the two minutes of a spot node."""

PLAN_FOLDER = "/etc/rayml"
IMAGE_VARIABLE = "RAYML_IMAGE"
"""The image by its digest: no process can ask what it runs in, and every manifest names it."""
TOKEN_KEY = "auth_token"  # noqa: S105  the key in the secret, not what it holds
GPU = "nvidia.com/gpu"
POOL_LABEL, SPOT_TAINT = "rayml.io/pool", "rayml.io/spot"
"""Of nodes, as docs/kubernetes.md names them."""

ENDPOINT_LABEL = "rayml.io/endpoint"
"""On what belongs to an endpoint; its value is the name of the RayService."""

PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080, "serve": 8000}
HEAD_PORTS, WORKER_PORTS = ("gcs-server", "dashboard", "client", "metrics"), ("metrics",)

SUBMITTER_RESOURCES = {"cpu": "500m", "memory": "512Mi"}
SUBMITTER_DISK = quantity(2**30)


@dataclass(frozen=True)
class EndpointPods:
    """What the pods of an endpoint have besides those of a job."""

    name: str
    """Of the RayService whose requests they answer."""
    variables: tuple[Document, ...]
    """Of every pod."""
    worker_variables: tuple[Document, ...]
    """Of those that hold replicas."""


def head_template(
    cluster: KubeRayCluster,
    scales: bool,
    plan: str | None,
    notes: dict[str, str],
    variables: Sequence[Document] = (),
) -> Document:
    """The pod of the head.

    Args:
        scales: whether the autoscaler runs in it, which talks to the Kubernetes API.
        plan: name of the ConfigMap that is mounted at /etc/rayml; None for none.
        notes: annotations.
        variables: of its environment, besides those of every Ray container.
    """
    container = ray_container("ray-head", cluster, cluster.head, HEAD_PORTS, plan)
    container["env"] += variables
    spec = pod_spec(cluster.head_account, container, volumes(cluster.head, plan), cluster.head)
    return template({**spec, "automountServiceAccountToken": scales}, notes)


def worker_template(
    cluster: KubeRayCluster,
    group: GroupSpec,
    plan: str | None,
    notes: dict[str, str],
    endpoint: EndpointPods | None = None,
) -> Document:
    """The pod of a group.

    Args:
        plan: name of the ConfigMap that is mounted at /etc/rayml; None for none.
        notes: annotations.
        endpoint: the one whose requests it answers; None for none.
    """
    ports = (*WORKER_PORTS, "serve") if endpoint else WORKER_PORTS
    container = ray_container("ray-worker", cluster, group, ports, plan)
    if endpoint:
        container["readinessProbe"] = ready_through_proxy()
        container["env"] += (*endpoint.variables, *endpoint.worker_variables)
    spec = pod_spec(cluster.service_account, container, volumes(group, plan), group)
    if group.spot:
        spec["affinity"] = spot_affinity(group)
    return template(spec, notes, {ENDPOINT_LABEL: endpoint.name} if endpoint else None)


def ready_through_proxy() -> Document:
    """A worker of an endpoint takes requests when its proxy does. It asks what KubeRay's own probe asks, without the
    `wget` that that one needs in the image. Liveness is KubeRay's."""
    return {
        "httpGet": {"path": "/-/healthz", "port": PORTS["serve"]},
        "initialDelaySeconds": 10,
        "periodSeconds": 5,
        "timeoutSeconds": 5,
        "successThreshold": 1,
        "failureThreshold": 1,
    }


def submitter_template(cluster: KubeRayCluster) -> Document:
    """The pod that hands a job to the head. KubeRay writes its command; a container without one is what it expects."""
    container = {
        "name": "ray-job-submitter",
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [*token_variables(cluster), *named({"HOME": HOME, "USER": USER, "PYTHONDONTWRITEBYTECODE": "1"})],
        "resources": equal_resources(SUBMITTER_RESOURCES),
        "securityContext": container_security(),
        "volumeMounts": [{"name": "tmp", "mountPath": TMP}, {"name": "home", "mountPath": HOME}],
    }
    own_volumes = [{"name": name, "emptyDir": {"sizeLimit": SUBMITTER_DISK}} for name in ("tmp", "home")]
    return template(pod_spec(cluster.service_account, container, own_volumes, None), {})


def ray_container(
    name: str, cluster: KubeRayCluster, size: PodSpec, ports: tuple[str, ...], plan: str | None
) -> Document:
    """The container that runs Ray: the first of its pod, its command written by KubeRay."""
    container: Document = {
        "name": name,
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "env": ray_variables(cluster),
        "ports": [{"name": port, "containerPort": PORTS[port]} for port in ports],
        "resources": equal_resources(
            {
                "cpu": str(size.cpus),
                "memory": quantity(size.memory),
                "ephemeral-storage": quantity(size.disk),
                **({GPU: str(size.gpus)} if size.gpus else {}),
            }
        ),
        "securityContext": container_security(),
        "volumeMounts": ray_mounts(plan),
    }
    if cluster.secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in cluster.secrets]
    return container


def ray_variables(cluster: KubeRayCluster) -> list[Document]:
    """The environment of a Ray container. KubeRay adds its own, and leaves what is there."""
    return [
        *token_variables(cluster),
        *named(
            {
                "RAYML_STORAGE": cluster.storage,
                IMAGE_VARIABLE: cluster.image,
                "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_S),
                "RAY_USAGE_STATS_ENABLED": "0",
                "HOME": HOME,
                "USER": USER,
                "PYTHONUNBUFFERED": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
            }
        ),
    ]


def token_variables(cluster: KubeRayCluster) -> list[Document]:
    """The token by reference, as `authOptions` makes KubeRay add it where it is missing."""
    reference = {"name": cluster.auth, "key": TOKEN_KEY}
    return [
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": reference}},
    ]


def named(values: dict[str, str]) -> list[Document]:
    """Environment variables with their values. Kubernetes replaces `$(NAME)` in them, and reads `$$` as `$`."""
    return [{"name": name, "value": value.replace("$", "$$")} for name, value in values.items()]


def equal_resources(amounts: dict[str, str]) -> Document:
    """What is asked for is the most that there is: the node keeps its promise, and so does the pod."""
    return {"requests": dict(amounts), "limits": dict(amounts)}


def container_security() -> Document:
    """What `restricted` asks of each container, and a root file system that stays as the image has it."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def ray_mounts(plan: str | None) -> list[Document]:
    """Where a Ray container writes, and where it finds the plan."""
    mounts: list[Document] = [
        {"name": "tmp", "mountPath": TMP},
        {"name": "home", "mountPath": HOME},
        {"name": "shm", "mountPath": SHM},
    ]
    return [*mounts, {"name": "plan", "mountPath": PLAN_FOLDER, "readOnly": True}] if plan else mounts


def volumes(size: PodSpec, plan: str | None) -> list[Document]:
    """The volumes behind `ray_mounts`. Memory that /dev/shm takes counts against the container's."""
    disk = {"sizeLimit": quantity(size.disk)}
    made: list[Document] = [
        {"name": "tmp", "emptyDir": dict(disk)},
        {"name": "home", "emptyDir": dict(disk)},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": quantity(size.shared_memory)}},
    ]
    return [*made, {"name": "plan", "configMap": {"name": plan}}] if plan else made


def pod_spec(account: str, container: Document, mounted: list[Document], size: PodSpec | None) -> Document:
    """A pod of one container. `Never`, because the second autoscaler replaces pods itself."""
    spec: Document = {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": mounted,
    }
    if size is not None and size.node_selector:
        spec["nodeSelector"] = dict(size.node_selector)
    if size is not None and tolerations(size):
        spec["tolerations"] = tolerations(size)
    return spec


def tolerations(size: HeadSpec | PodSpec) -> list[Document]:
    """Those of the file, and that of spot nodes for a group that may stand on them."""
    spot = (TolerationSpec(key=SPOT_TAINT, value="true"),) if isinstance(size, GroupSpec) and size.spot else ()
    return [
        {
            "key": each.key,
            **({"operator": "Exists"} if each.value is None else {"operator": "Equal", "value": each.value}),
            "effect": each.effect,
        }
        for each in (*size.tolerations, *spot)
    ]


def spot_affinity(group: GroupSpec) -> Document:
    """Spot nodes where there are some, others where there are none."""
    pool = "gpu-spot" if group.gpus else "cpu-spot"
    wish = {"matchExpressions": [{"key": POOL_LABEL, "operator": "In", "values": [pool]}]}
    preferred = [{"weight": 100, "preference": wish}]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def template(spec: Document, notes: dict[str, str], labels: dict[str, str] | None = None) -> Document:
    """A pod template of ours."""
    metadata: Document = {"labels": {"app.kubernetes.io/part-of": "rayml", **(labels or {})}}
    if notes:
        metadata["annotations"] = dict(notes)
    return {"metadata": metadata, "spec": spec}
