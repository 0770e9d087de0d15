"""Where the pod templates of a manifest stand, in kinds known by name and in any other kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rayml.lint.view import View

Role = Literal["head", "worker", "submitter", "other"]

CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")

_EACH = "*"
_TEMPLATE = ("spec", "template")
_JOB_TEMPLATE = ("spec", "jobTemplate", "spec", "template")
_HEAD = ("headGroupSpec", "template")
_WORKERS = ("workerGroupSpecs", _EACH, "template")

PLACES: dict[str, tuple[tuple[tuple[str, ...], Role], ...]] = {
    "Pod": (((), "other"),),
    "PodTemplate": ((("template",), "other"),),
    "Deployment": ((_TEMPLATE, "other"),),
    "ReplicaSet": ((_TEMPLATE, "other"),),
    "ReplicationController": ((_TEMPLATE, "other"),),
    "StatefulSet": ((_TEMPLATE, "other"),),
    "DaemonSet": ((_TEMPLATE, "other"),),
    "Job": ((_TEMPLATE, "other"),),
    "CronJob": ((_JOB_TEMPLATE, "other"),),
    "RayCluster": ((("spec", *_HEAD), "head"), (("spec", *_WORKERS), "worker")),
    "RayService": (
        (("spec", "rayClusterConfig", *_HEAD), "head"),
        (("spec", "rayClusterConfig", *_WORKERS), "worker"),
    ),
    "RayJob": (
        (("spec", "rayClusterSpec", *_HEAD), "head"),
        (("spec", "rayClusterSpec", *_WORKERS), "worker"),
        (("spec", "submitterPodTemplate"), "submitter"),
    ),
    "RayCronJob": (
        (("spec", "jobTemplate", "rayClusterSpec", *_HEAD), "head"),
        (("spec", "jobTemplate", "rayClusterSpec", *_WORKERS), "worker"),
        (("spec", "jobTemplate", "submitterPodTemplate"), "submitter"),
    ),
}
"""The pod templates of each kind, with what runs in them. Other kinds are searched for `template.spec.containers`."""

CLUSTER_PLACES: dict[str, tuple[str, ...]] = {
    "RayCluster": ("spec",),
    "RayService": ("spec", "rayClusterConfig"),
    "RayJob": ("spec", "rayClusterSpec"),
    "RayCronJob": ("spec", "jobTemplate", "rayClusterSpec"),
}
"""Where the RayCluster spec of each Ray kind stands."""


@dataclass(frozen=True)
class PodTemplate:
    """A pod as it is written in a manifest.

    Args:
        spec: the pod spec.
        metadata: its metadata, for annotations.
        role: what runs in it.
        sidecars: containers that KubeRay adds and a field outside the template describes.
        is_autoscaling: whether the head pod runs the autoscaler, which talks to the Kubernetes API.
    """

    spec: View
    metadata: View
    role: Role = "other"
    sidecars: tuple[View, ...] = ()
    is_autoscaling: bool = False

    def containers(self) -> list[View]:
        """Every container written in the template, init and ephemeral ones first and last."""
        return [container for name in CONTAINER_LISTS for container in self.spec[name].items()]


def pod_templates(kind: str, document: View) -> list[PodTemplate]:
    """The pod templates of a document that have a pod spec."""
    if kind not in PLACES:
        return [PodTemplate(template["spec"], template["metadata"]) for template in _search(document)]
    found = []
    for place, role in PLACES[kind]:
        for template in _follow(document, place):
            if isinstance(template["spec"].value, dict):
                found.append(_with_autoscaler(kind, document, template, role))
    return found


def cluster_spec(kind: str, document: View) -> View | None:
    """The RayCluster spec in a document of a Ray kind, None where it has none."""
    place = CLUSTER_PLACES.get(kind)
    found = None if place is None else document.at(*place)
    return found if found is not None and isinstance(found.value, dict) else None


def _with_autoscaler(kind: str, document: View, template: View, role: Role) -> PodTemplate:
    """The head pod has one container more where it autoscales; `autoscalerOptions` describes it."""
    cluster = cluster_spec(kind, document)
    if role != "head" or cluster is None or not cluster["enableInTreeAutoscaling"].is_true:
        return PodTemplate(template["spec"], template["metadata"], role)
    return PodTemplate(template["spec"], template["metadata"], role, (cluster["autoscalerOptions"],), True)


def _follow(view: View, place: tuple[str, ...]) -> Iterator[View]:
    if not place:
        yield view
    elif place[0] == _EACH:
        for entry in view.items():
            yield from _follow(entry, place[1:])
    else:
        yield from _follow(view[place[0]], place[1:])


def _search(document: View) -> Iterator[View]:
    return (place for place in document.every() if isinstance(place.at("spec", "containers").value, list))
