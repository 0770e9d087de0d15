"""What is sent to the Kubernetes API: documents in the order in which they are applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rayml.backends.kuberay.job import job_documents, owner
from rayml.backends.kuberay.long_lived import cluster_documents
from rayml.backends.kuberay.metadata import waits_for_kueue
from rayml.backends.kuberay.names import resource_name
from rayml.backends.kuberay.parcel import make_parcel
from rayml.backends.kuberay.pods import Document
from rayml.backends.kuberay.service import service_documents
from rayml.backends.kuberay.text import to_yaml
from rayml.errors import PlanError
from rayml.plan.plan import Plan
from rayml.spec.kuberay import KubeRayCluster

What = Literal["job", "service", "cluster"]


class Request(BaseModel):
    """Exactly what is applied."""

    model_config = ConfigDict(frozen=True)

    documents: tuple[Document, ...]
    """What others need comes first."""
    gates: tuple[str, ...]
    """Feature gates of the operator that have to be on."""

    def to_yaml(self) -> str:
        """One YAML stream; the same text for the same documents."""
        return to_yaml(self.documents)


def render(plan: Plan, cluster: KubeRayCluster, run: str, kind: What = "job") -> Request:
    """What `submit` will send. Reads the code folder, and sends nothing.

    Args:
        run: name of the run; of the cluster, for `kind="cluster"`, which needs nothing else of the plan.
    Raises:
        PlanError: the plan is too large, or the job has no step for this kind.
    """
    return Request(documents=tuple(RENDERERS[kind](plan, cluster, run)), gates=needed_gates(cluster, kind))


def render_job(plan: Plan, cluster: KubeRayCluster, run: str) -> list[Document]:
    """The steps that end, and the plan that says what they are."""
    ending = steps_that_end(plan)
    parcel = make_parcel(ending, f"{resource_name(run, owner(cluster))}-plan")
    return job_documents(ending, cluster, run, parcel)


def render_cluster(_plan: Plan, cluster: KubeRayCluster, name: str) -> list[Document]:
    """A cluster that stays."""
    return cluster_documents(cluster, name)


RENDERERS: dict[What, Callable[[Plan, KubeRayCluster, str], list[Document]]] = {
    "job": render_job,
    "service": service_documents,
    "cluster": render_cluster,
}


def needed_gates(cluster: KubeRayCluster, kind: What) -> tuple[str, ...]:
    """Feature gates of KubeRay 1.7. Only the first is off where nobody turned it on (pkg/features/features.go)."""
    uses = {
        "RayCronJob": kind == "job" and cluster.schedule is not None,
        "RayJobDeletionPolicy": kind == "job" and not waits_for_kueue(cluster.queue),
        "RayServiceIncrementalUpgrade": kind == "service" and cluster.upgrade == "incremental",
    }
    return tuple(gate for gate, used in uses.items() if used)


def steps_that_end(plan: Plan) -> Plan:
    """The plan without its endpoint, which a RayService is for."""
    steps = tuple(step for step in plan.steps if step.name != "serve")
    if not steps:
        raise PlanError("the job only serves", where="serve", hint="render its endpoint: kind `service`")
    return plan.model_copy(update={"steps": steps})
