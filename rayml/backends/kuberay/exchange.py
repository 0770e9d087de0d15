"""One request to a Kubernetes API server, and its answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

LONGEST_SAID = 600
"""Characters of the server's own words in an error."""


@dataclass(frozen=True)
class Resource:
    """Where objects of a kind are."""

    api: str
    plural: str

    @property
    def root(self) -> str:
        """Of its paths."""
        return f"/api/{self.api}" if "/" not in self.api else f"/apis/{self.api}"


RESOURCES = {
    "ConfigMap": Resource("v1", "configmaps"),
    "CustomResourceDefinition": Resource("apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "Event": Resource("v1", "events"),
    "Pod": Resource("v1", "pods"),
    "PodDisruptionBudget": Resource("policy/v1", "poddisruptionbudgets"),
    "RayCluster": Resource("ray.io/v1", "rayclusters"),
    "RayCronJob": Resource("ray.io/v1", "raycronjobs"),
    "RayJob": Resource("ray.io/v1", "rayjobs"),
    "RayService": Resource("ray.io/v1", "rayservices"),
}


@dataclass(frozen=True)
class Asked:
    """One request, as an error tells it."""

    verb: str
    kind: str
    namespace: str
    """Empty for what belongs to the whole cluster."""
    name: str = ""
    part: str = ""
    """`log` of a pod."""
    document: str = ""
    """Path of a document that is no object; it has no kind."""

    @property
    def path(self) -> str:
        """Of its URL."""
        if self.document:
            return self.document
        resource = RESOURCES[self.kind]
        place = f"/namespaces/{quote(self.namespace, safe='')}" if self.namespace else ""
        tail = [quote(each, safe="") for each in (self.name, self.part) if each]
        return "/".join([f"{resource.root}{place}/{resource.plural}", *tail])

    @property
    def rule(self) -> str:
        """The right that it takes."""
        if self.document:
            return f"{self.verb} {self.document.partition('?')[0]}"
        resource = RESOURCES[self.kind]
        group = resource.api.partition("/")[0] if "/" in resource.api else ""
        subject = f"{resource.plural}/{self.part}" if self.part else resource.plural
        return f"{self.verb} {subject}.{group}" if group else f"{self.verb} {subject}"

    def __str__(self) -> str:
        if not self.namespace:
            return self.path.partition("?")[0]
        return f"{self.kind} {self.namespace}/{self.name}" if self.name else f"{self.kind}s in {self.namespace}"


@dataclass(frozen=True)
class Answer:
    """What a server said to a request."""

    status: int
    text: str
    document: dict[str, Any] = field(default_factory=dict)
    """Empty where it is no JSON object."""

    @property
    def said(self) -> str:
        """Its message, on one line."""
        words = str(self.document.get("message") or self.text)
        line = " ".join(words.split())
        return line if len(line) <= LONGEST_SAID else f"{line[:LONGEST_SAID]} ..."

    @property
    def details(self) -> dict[str, Any]:
        """What it says about the object in question."""
        return dict(self.document.get("details") or {})


def as_answer(status: int, text: str) -> Answer:
    """An answer whose text may be JSON."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return Answer(status, text, found if isinstance(found, dict) else {})


def is_no_object(asked: Asked, answer: Answer) -> bool:
    """Whether the kind is known there, and the object is not."""
    details = answer.details
    return answer.status == 404 and details.get("name") == asked.name and details.get("kind") != "namespaces"
