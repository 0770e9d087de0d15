"""The cluster file: what the job may use. It never changes what a step computes, only where and how wide."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rayml.spec.base import Auto, Bytes, Fits, Seconds, Spec, Text
from rayml.spec.kuberay import KubeRayCluster


class NodesSpec(Spec):
    """Nodes that come when work waits and go when they are idle. On this machine each is a Ray node of its own
    (processes, not machines), which the same autoscaler starts and ends as it would in a cloud."""

    min: int = Field(default=0, ge=0)
    """Nodes that are always there."""
    max: int = Field(ge=1)
    """Nodes at most."""
    cpus: int = Field(default=1, ge=1)
    """Of one node."""
    gpus: int = Field(default=0, ge=0)
    """Of one node."""
    idle: Seconds = 60.0
    """How long a node without work stays."""
    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    """Of one node, in the currency of budgets."""

    @model_validator(mode="after")
    def _max_is_not_below_min(self) -> NodesSpec:
        if self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self


class LocalCluster(Spec):
    """This machine, or the share of it that a run may take."""

    kind: Literal["local"] = "local"
    cpus: Annotated[int, Field(ge=1)] | Auto = "auto"
    """`auto` is what the operating system lets this process use."""
    gpus: Annotated[int, Field(ge=0)] | Auto = "auto"
    """`auto` is what the driver lists."""
    object_store: Bytes | Auto = "auto"
    """Shared memory for Ray's objects. `auto` is a tenth of the machine's memory, at most 2 GiB."""
    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    """Of this machine, or of the head node where there are `nodes`, in the currency of budgets."""
    nodes: NodesSpec | None = None
    """More nodes, which come and go with the work. Trials of a sweep run on them."""


Address = Annotated[str, Field(pattern=r"^https?://[^\s/@?#]+$"), Fits("`http://HOST:PORT` of a Ray head's dashboard")]


class RayCluster(Spec):
    """A Ray cluster that somebody else runs. Jobs are handed to its head's Jobs API (`rayml submit`)."""

    kind: Literal["ray"]
    address: Address | None = None
    """Of the head's dashboard, usually port 8265. `rayml submit --address` takes its place."""
    storage: Text
    """Where runs and artifacts are: a folder that every node sees, or `s3://bucket/prefix`."""
    cpus: int = Field(ge=1)
    """What a job may take of all nodes together."""
    gpus: int = Field(default=0, ge=0)
    """The same."""
    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    """Of what a job may take, in the currency of budgets."""
    price_per_month: Annotated[float, Field(gt=0)] | None = None
    """Of what stands whether or not a job runs."""


Cluster = LocalCluster | RayCluster | KubeRayCluster
CLUSTERS: dict[str, type[LocalCluster | RayCluster | KubeRayCluster]] = {
    "local": LocalCluster,
    "ray": RayCluster,
    "kuberay": KubeRayCluster,
}
"""A file's `kind` to what it holds; one without is of this machine."""


def read_cluster(document: dict[str, Any]) -> Cluster:
    """The cluster of a document that was checked before."""
    return CLUSTERS[document.get("kind", "local")].model_validate(document)
