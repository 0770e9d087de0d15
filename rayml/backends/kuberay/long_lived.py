"""A RayCluster that stays until somebody deletes it, for jobs that are handed to it over Ray's Jobs API."""

from __future__ import annotations

from rayml.backends.kuberay.cluster import cluster_spec
from rayml.backends.kuberay.metadata import metadata, queue_labels, waits_for_kueue
from rayml.backends.kuberay.names import resource_name
from rayml.backends.kuberay.pods import Document
from rayml.spec.kuberay import KubeRayCluster


def cluster_documents(cluster: KubeRayCluster, name: str) -> list[Document]:
    """The RayCluster. A changed file makes it anew: KubeRay would pass over the change otherwise, and say nothing."""
    spec = {**cluster_spec(cluster), "upgradeStrategy": {"type": "Recreate"}}
    if waits_for_kueue(cluster.queue):
        spec["suspend"] = True
    about = metadata(
        cluster, resource_name(name, "RayCluster"), {"rayml.io/cluster": name}, queue_labels(cluster.queue)
    )
    return [{"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": about, "spec": spec}]
