"""A cluster file of kind `kuberay`: what KubeRay makes for a run on Kubernetes, and takes away after it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayml.spec.base import Bytes, Fits, Seconds, Spec

DNS_LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
Label = Annotated[str, Field(pattern=DNS_LABEL, max_length=63), Fits("lower case letters, digits and dashes")]
Image = Annotated[
    str, Field(pattern=r"^[^\s@]+@sha256:[0-9a-f]{64}$"), Fits("an image by its digest: `name@sha256:...`")
]
Storage = Annotated[str, Field(pattern=r"^s3://[^\s@?#]+$"), Fits("`s3://bucket/prefix`")]
NodeKey = Annotated[
    str,
    Field(pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"),
    Fits("the key of a label, such as `rayml.io/pool`"),
]
NodeValue = Annotated[
    str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"), Fits("the value of a label")
]
SHM_SHARE, SHM_UNIT = 0.3, 2**20
SMALLEST_SHM = 128 * 2**20
"""Ray's smallest object store has 75 MiB."""
RESERVED_GROUPS = ("head", "submitter")
"""Names that Kueue gives to the other pods of a job."""
MOST_GROUPS = 6
"""Kueue admits eight kinds of pods together; head and submitter are two of them."""


class TolerationSpec(Spec):
    """A taint that pods of a group may stand on."""

    key: NodeKey
    """Of the taint."""
    value: NodeValue | None = None
    """Any value where it is left out."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"
    """Of the taint."""


class PodSpec(Spec):
    """What one pod holds. Memory that is asked for is the most that it gets."""

    cpus: int = Field(ge=1)
    """Whole ones."""
    memory: Bytes
    """Of which `shm` is a part."""
    gpus: int = Field(default=0, ge=0)
    """NVIDIA's."""
    shm: Bytes | None = None
    """Shared memory (`/dev/shm`) for Ray's objects, a part of `memory`. 30 % of it where nothing is written."""
    disk: Bytes = 20 * 2**30
    """For logs, caches and objects that do not fit into `shm`. A pod that writes more is evicted."""
    node_selector: dict[NodeKey, NodeValue] = Field(default_factory=dict)
    """Labels that the node has to have."""
    tolerations: tuple[TolerationSpec, ...] = ()
    """Taints of the node that the pod may stand on."""

    @property
    def shared_memory(self) -> int:
        """Bytes of `/dev/shm`."""
        return self.shm or int(self.memory * SHM_SHARE) // SHM_UNIT * SHM_UNIT

    @model_validator(mode="after")
    def _shm_fits_into_memory(self) -> PodSpec:
        if self.shared_memory < SMALLEST_SHM:
            raise ValueError(f"shm is below {SMALLEST_SHM // SHM_UNIT}MiB; without `shm`, it is 30 % of memory")
        if self.shared_memory >= self.memory:
            raise ValueError("shm is a part of memory, and has to be smaller")
        return self


class HeadSpec(PodSpec):
    """The pod of the head. No work is placed on it."""

    cpus: int = Field(default=2, ge=1)
    """Whole ones."""
    memory: Bytes = 8 * 2**30
    """Of which `shm` is a part."""


class GroupSpec(PodSpec):
    """Pods that are alike, and come and go with the work."""

    name: Label
    """Of its own within the file."""
    min: int = Field(default=0, ge=0)
    """Pods that are always there."""
    max: int = Field(ge=1)
    """Pods at most."""
    spot: bool = False
    """Whether its nodes may be taken away at two minutes' notice."""
    idle: Seconds = 60.0
    """How long a pod without work stays."""
    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    """Of one pod, in the currency of budgets."""

    @model_validator(mode="after")
    def _max_is_not_below_min(self) -> GroupSpec:
        if self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self

    @model_validator(mode="after")
    def _name_is_not_reserved(self) -> GroupSpec:
        if self.name in RESERVED_GROUPS:
            raise ValueError(f"`{self.name}` is the name of other pods of the job")
        return self


class QueueSpec(Spec):
    """Who admits the job: all its pods at once, or none. In a queue, each group has `max` pods from the start."""

    kind: Literal["kueue", "volcano"]
    name: Label
    """Of the local queue (Kueue), or of the queue (Volcano)."""
    priority: Label | None = None
    """WorkloadPriorityClass (Kueue) or PriorityClass (Volcano)."""


class RedisSpec(Spec):
    """Where the head keeps what the cluster knows, so that a new head goes on with it."""

    address: Annotated[str, Field(pattern=r"^(rediss?://)?[A-Za-z0-9.-]+:\d{1,5}$"), Fits("`redis:6379`")]
    """`redis:6379`, or `rediss://redis:6379` for TLS."""
    password: Label | None = None
    """Name of the secret whose key `password` it is."""


class FinishSpec(Spec):
    """What becomes of a cluster when its job is over."""

    ttl: Seconds = 300.0
    """How long the RayJob stays after a success."""
    keep_failed: Seconds = 3600.0
    """How long the cluster of a failed job stays, to be looked into. In Kueue's queue it goes after `ttl`."""
    deadline: Seconds | None = None
    """After which the job is ended; never where nothing is written."""
    retries: int = Field(default=2, ge=0, le=10)
    """New clusters after a failed one. Each goes on from what the storage has."""


class ScheduleSpec(Spec):
    """When the job is started again and again, as a RayCronJob."""

    cron: Annotated[str, Field(pattern=r"^[\w*/,?-]+( [\w*/,?-]+){4}$"), Fits("five fields, such as `0 3 * * *`")]
    """When: minute, hour, day, month and day of the week."""
    time_zone: Annotated[str, Field(pattern=r"^[A-Za-z0-9_+/-]+$"), Fits("such as `Europe/Berlin`")] = "Etc/UTC"
    """As in the IANA database."""


class KubeRayCluster(Spec):
    """A Ray cluster that KubeRay makes for the job."""

    kind: Literal["kuberay"]
    namespace: Label = "rayml"
    """Where all of it stands; k8s/ makes it."""
    image: Image
    """Holds rayml and Ray of the same versions as this machine."""
    storage: Storage
    """Where runs and artifacts are. Pods get their credentials from their service account."""
    head: HeadSpec = HeadSpec()
    groups: Annotated[tuple[GroupSpec, ...], Field(min_length=1)]
    """The workers."""
    service_account: Label = "rayml-worker"
    """Of workers and submitter; it may do nothing in the API."""
    head_account: Label = "rayml-head"
    """Of the head, whose autoscaler asks for pods."""
    auth: Label = "rayml-ray-token"
    """Name of the secret whose key `auth_token` everybody shows to the head."""
    endpoint_key: Label = "rayml-endpoint-key"
    """Name of the secret whose key `key` everybody shows to the endpoint. Not read where `serve.auth` is `none`."""
    secrets: tuple[Label, ...] = ()
    """Names of secrets whose keys become environment variables of the pods."""
    submission: Literal["k8s_job", "http"] = "k8s_job"
    """Who hands the job to the head: a pod beside it, or the operator over HTTP."""
    queue: QueueSpec | None = None
    """Nobody admits the pods where nothing is written."""
    redis: RedisSpec | None = None
    """A head that is lost ends the cluster where nothing is written; the job goes on in a new one."""
    finish: FinishSpec = FinishSpec()
    schedule: ScheduleSpec | None = None
    """Once, now, where nothing is written."""
    upgrade: Literal["new_cluster", "incremental"] = "new_cluster"
    """How the endpoint of a new model takes the place of the old one; both without an answer lost."""
    price_per_month: Annotated[float, Field(gt=0)] | None = None
    """Of what stands whether or not a job runs: control plane, network, system nodes (`python -m infra costs`)."""
    gateway_class: Label | None = None
    """Of the Gateway API; `upgrade: incremental` moves requests through it."""

    @property
    def cpus(self) -> int:
        """What a job may take of all groups together."""
        return sum(group.max * group.cpus for group in self.groups)

    @property
    def gpus(self) -> int:
        """The same."""
        return sum(group.max * group.gpus for group in self.groups)

    @property
    def price_per_hour(self) -> float | None:
        """Of all groups at their largest; None where a group has no price."""
        prices = [group.price_per_hour for group in self.groups]
        if any(price is None for price in prices):
            return None
        return sum(group.max * (group.price_per_hour or 0.0) for group in self.groups)

    @model_validator(mode="after")
    def _groups_have_names_of_their_own(self) -> KubeRayCluster:
        names = [group.name for group in self.groups]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two groups are called `{twice}`")
        return self

    @model_validator(mode="after")
    def _queue_fits(self) -> KubeRayCluster:
        if self.queue is None:
            return self
        if self.schedule is not None:
            raise ValueError(
                "a schedule has no queue: KubeRay hands no labels on to the jobs that it makes by schedule"
            )
        if self.queue.kind == "kueue" and len(self.groups) > MOST_GROUPS:
            raise ValueError(f"{len(self.groups)} groups, and Kueue admits {MOST_GROUPS}")
        return self

    @model_validator(mode="after")
    def _incremental_upgrade_fits(self) -> KubeRayCluster:
        if self.upgrade == "incremental" and self.gateway_class is None:
            raise ValueError("`upgrade: incremental` needs `gateway_class`")
        if self.upgrade == "incremental" and self.queue is not None:
            raise ValueError("`upgrade: incremental` needs the autoscaler, which does not run in a queue")
        return self
