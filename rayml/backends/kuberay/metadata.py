"""Names, labels and annotations of what is rendered: what finds it again, and what admits it.

Sources: Kueue's labels (kueue.sigs.k8s.io, `run_rayjobs`); Volcano's, which KubeRay reads from the RayCluster and turns
into a pod group and the annotations of pods (ray-operator/controllers/ray/batchscheduler/volcano/volcano_scheduler.go).
KubeRay hands the labels of a RayJob or RayService on to its RayCluster.
"""

from __future__ import annotations

from rayml.backends.kuberay.pods import Document
from rayml.spec.kuberay import KubeRayCluster, QueueSpec

QUEUE_LABELS = {
    "kueue": ("kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"),
    "volcano": ("volcano.sh/queue-name", "ray.io/priority-class-name"),
}
"""Kind of a queue to the labels that name it and the priority in it."""


def metadata(
    cluster: KubeRayCluster, name: str, notes: dict[str, str], labels: dict[str, str] | None = None
) -> Document:
    """The metadata of a document. Texts that are no labels stand in annotations, which take any."""
    return {
        "name": name,
        "namespace": cluster.namespace,
        "labels": {"app.kubernetes.io/part-of": "rayml", "app.kubernetes.io/managed-by": "rayml", **(labels or {})},
        "annotations": dict(notes),
    }


def queue_labels(queue: QueueSpec | None) -> dict[str, str]:
    """What names the queue; nothing where there is none."""
    if queue is None:
        return {}
    name, priority = QUEUE_LABELS[queue.kind]
    return {name: queue.name, **({priority: queue.priority} if queue.priority else {})}


def waits_for_kueue(queue: QueueSpec | None) -> bool:
    """Whether it starts suspended: Kueue lets it go. Volcano holds the pods instead."""
    return queue is not None and queue.kind == "kueue"
