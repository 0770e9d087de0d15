"""Manifests without a fault, of each Ray kind, and the means to spoil one field of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).parents[3] / "shared" / "k8s-schemas"
IMAGE = f"registry.example.org/rayml@sha256:{'0123456789abcdef' * 4}"
REMOVE = object()


def container(name: str = "ray", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"limits": {"cpu": "2", "memory": "4Gi"}, "requests": {"cpu": "2", "memory": "4096Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "tmp", "mountPath": "/tmp"}],
        **more,
    }


def pod(*, autoscaling: bool = False, **more: Any) -> dict[str, Any]:
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container()],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
        **more,
    }
    if autoscaling:
        del spec["automountServiceAccountToken"]
    return spec


def cluster_spec(*, autoscaling: bool = False) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "rayVersion": "2.60.0",
        "authOptions": {"mode": "token", "secretName": "ray-token"},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": {"metadata": {"labels": {"app": "rayml"}}, "spec": pod(autoscaling=autoscaling)},
        },
        "workerGroupSpecs": [
            {
                "groupName": "cpu",
                "replicas": 1,
                "minReplicas": 0,
                "maxReplicas": 4,
                "rayStartParams": {},
                "template": {"spec": pod()},
            }
        ],
    }
    if autoscaling:
        spec["enableInTreeAutoscaling"] = True
        spec["autoscalerOptions"] = {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": 60,
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    return spec


def job_spec(**options: Any) -> dict[str, Any]:
    submitter = container("submitter", volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}])
    return {
        "entrypoint": "python -m rayml.run.driver --spec '/etc/rayml/job file.json'",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "runtimeEnvYAML": "env_vars:\n  OMP_NUM_THREADS: '1'\n",
        "submitterPodTemplate": {"spec": pod(containers=[submitter], restartPolicy="Never")},
        "rayClusterSpec": cluster_spec(**options),
    }


def manifest(kind: str, spec: dict[str, Any], name: str = "digits") -> dict[str, Any]:
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "ml"}, "spec": spec}


def ray_cluster(**options: Any) -> dict[str, Any]:
    return manifest("RayCluster", cluster_spec(**options))


def ray_job(**options: Any) -> dict[str, Any]:
    return manifest("RayJob", job_spec(**options))


def ray_service(**options: Any) -> dict[str, Any]:
    spec = {
        "serveConfigV2": "applications:\n- name: digits\n  import_path: rayml.serve:app\n",
        "rayClusterConfig": cluster_spec(**options),
        "upgradeStrategy": {"type": "NewCluster"},
    }
    return manifest("RayService", spec)


def ray_cron_job() -> dict[str, Any]:
    return manifest("RayCronJob", {"schedule": "0 3 * * 1-5", "timeZone": "Europe/Berlin", "jobTemplate": job_spec()})


MAKERS = {"RayCluster": ray_cluster, "RayJob": ray_job, "RayService": ray_service, "RayCronJob": ray_cron_job}


def spoiled(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with fields set by path (`spec/workerGroupSpecs/0/replicas`), or taken away where the value is REMOVE."""
    changed = copy.deepcopy(document)
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
        place = changed
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else place[parent]
        if value is REMOVE:
            del place[last]
        else:
            place[last] = value
    return changed
