"""The RayService of an endpoint, and what keeps one of its pods while nodes are emptied.

A new model takes the place of the old one by a new cluster: KubeRay starts one when `rayClusterConfig` changes, so the
run and its model stand in the annotations of the pods. In the same cluster, Serve would replace replicas one by one.

Source: ray-operator/controllers/ray/rayservice_controller.go, .../utils/validation.go (ValidateRayServiceSpec).
"""

from __future__ import annotations

from typing import Any

from rayml.backends.kuberay.cluster import cluster_spec
from rayml.backends.kuberay.metadata import metadata, queue_labels
from rayml.backends.kuberay.names import resource_name
from rayml.backends.kuberay.pods import ENDPOINT_LABEL, PORTS, Document, EndpointPods, named
from rayml.backends.kuberay.text import embedded
from rayml.errors import PlanError
from rayml.plan.plan import Plan
from rayml.spec.kuberay import KubeRayCluster
from rayml.stages.serve.arguments import arguments_of
from rayml.stages.serve.haproxy import pod_environment
from rayml.stages.serve.keys import KEY_VARIABLE

IMPORT_PATH = "rayml.stages.serve.kubernetes:app"
STEP_PERCENT, SURGE_PERCENT, INTERVAL_S = 10, 50, 10
"""An incremental upgrade moves a tenth of the requests every ten seconds, with at most half of a cluster more."""
OLD_CLUSTER_S = 120
"""How long the old cluster stays when the new one has all requests: longer than any of them takes."""


def service_documents(plan: Plan, cluster: KubeRayCluster, run: str) -> list[Document]:
    """The RayService and its disruption budget. Its name is the job's, so that a new run takes the place of the old.

    Raises:
        PlanError: the job does not serve.
    """
    if all(step.name != "serve" for step in plan.steps):
        raise PlanError("the job has no endpoint", where="serve", hint="add a section `serve: {}` to the job file")
    name = resource_name(plan.job, "RayService")
    notes = {"rayml.io/run": run, "rayml.io/job": plan.job}
    service = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata(cluster, name, notes, {ENDPOINT_LABEL: name, **queue_labels(cluster.queue)}),
        "spec": {
            "serveConfigV2": embedded(serve_config(plan, cluster, run)),
            "upgradeStrategy": upgrade_strategy(cluster),
            "rayClusterDeletionDelaySeconds": OLD_CLUSTER_S,
            # The head has no replicas; requests through its proxy would take one way more.
            "excludeHeadPodFromServeSvc": True,
            "serveService": {"spec": {"type": "ClusterIP", "ports": [serve_port()]}},
            "rayClusterConfig": cluster_spec(
                cluster, notes=model_notes(plan, run), endpoint=endpoint_pods(plan, cluster, name)
            ),
        },
    }
    return [service, disruption_budget(cluster, name, notes)]


def serve_config(plan: Plan, cluster: KubeRayCluster, run: str) -> dict[str, Any]:
    """What Serve is told (ray.serve.schema.ServeDeploySchema)."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": PORTS["serve"]},  # noqa: S104  in a pod; policies say who may
        "applications": [
            {
                "name": "rayml",
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": arguments(plan, cluster, run),
            }
        ],
    }


def arguments(plan: Plan, cluster: KubeRayCluster, run: str) -> dict[str, Any]:
    """What rayml.stages.serve.kubernetes is called with."""
    step = plan.step("serve")
    return arguments_of(step, cluster.storage, run, model(plan).get("artifact")).model_dump(exclude_none=True)


def endpoint_pods(plan: Plan, cluster: KubeRayCluster, name: str) -> EndpointPods:
    """The environment of its pods. Only those with replicas hold the key; it comes by reference."""
    secret = {"name": cluster.endpoint_key, "key": "key"}
    asks = plan.step("serve").config["auth"] == "bearer"
    key = {"name": KEY_VARIABLE, "valueFrom": {"secretKeyRef": secret}}
    return EndpointPods(name, tuple(named(pod_environment())), (key,) if asks else ())


def model(plan: Plan) -> dict[str, str]:
    """The key of the artifact that is served; nothing while a sweep has yet to decide which one it is."""
    undecided = plan.decision is None and any(step.name == "tune" for step in plan.steps)
    return {} if undecided else {"artifact": plan.step("serve").inputs["export"]}


def model_notes(plan: Plan, run: str) -> dict[str, str]:
    """Annotations that differ where the model does."""
    return {"rayml.io/run": run, **{f"rayml.io/{name}": key for name, key in model(plan).items()}}


def upgrade_strategy(cluster: KubeRayCluster) -> Document:
    """A new cluster at once, or request by request through a Gateway."""
    if cluster.upgrade == "new_cluster":
        return {"type": "NewCluster"}
    options = {
        "gatewayClassName": cluster.gateway_class,
        "stepSizePercent": STEP_PERCENT,
        "maxSurgePercent": SURGE_PERCENT,
        "intervalSeconds": INTERVAL_S,
    }
    return {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": options}


def serve_port() -> Document:
    """The port of the service, by the name that KubeRay looks for."""
    return {"name": "serve", "port": PORTS["serve"], "targetPort": PORTS["serve"], "protocol": "TCP"}


def disruption_budget(cluster: KubeRayCluster, name: str, notes: dict[str, str]) -> Document:
    """One pod of the endpoint stays while nodes are emptied. A percentage would need an owner that can be scaled."""
    chosen = {ENDPOINT_LABEL: name, "ray.io/node-type": "worker"}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(cluster, name, notes, {ENDPOINT_LABEL: name}),
        "spec": {"minAvailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": {"matchLabels": chosen}},
    }
