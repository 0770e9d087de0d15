"""The parameter file: what differs between accounts. Each field is documented where it stands."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from infra.instances import INSTANCES, Instance
from infra.words import listed_names
from rayml.spec.base import Fits, Spec
from rayml.spec.kuberay import Label

Region = Literal[
    "af-south-1",
    "ap-east-1",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ca-central-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
]
"""Of the partition `aws`. ARNs of China and GovCloud have another one, and were not looked at."""
Account = Annotated[
    str, Field(pattern=r"^\d{12}$"), Fits('the 12 digits of an account in quotes, such as "111122223333"')
]
RoleArn = Annotated[
    str,
    Field(pattern=r"^arn:aws:iam::\d{12}:(role|user)/[\w+=,.@/-]+$"),
    Fits("the ARN of a role, such as `arn:aws:iam::111122223333:role/admin`"),
]
Email = Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$"), Fits("an address of mail")]
ImageName = Annotated[
    str, Field(pattern=r"^[a-z0-9]+([._/-][a-z0-9]+)*$", max_length=200), Fits("the name of an image, such as `rayml`")
]
Prefix = Annotated[
    str,
    Field(pattern=r"^[a-z0-9]+([._/-][a-z0-9]+)*$", max_length=200),
    Fits("a folder of the bucket, such as `rayml`"),
]
Readable = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.=-]+)*$", max_length=300),
    Fits("a bucket with or without a folder, such as `our-data/images`"),
]
Version = Literal["1.33", "1.34", "1.35", "1.36"]
"""What k8s/ asks for (1.33) to the newest that this aws-cdk-lib names."""

PRIVATE = tuple(ipaddress.IPv4Network(block) for block in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
SMALLEST_PREFIX, LARGEST_PREFIX = 16, 22
"""What a VPC may have (at most a /16), and the least from which three zones still get a subnet of a /24."""
ADDRESSES_PER_NODE = 60
"""Each pod has one of the subnet, and the network plugin keeps another interface's ready: twice 30, on most sizes."""
LONGEST_ROLE = 64
"""Characters of a role's name in IAM."""
RESERVED_ADDRESSES = 5
"""That AWS keeps of each subnet."""


def _network(text: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError:
        raise ValueError(f"`{text}` is not a block of addresses, such as `10.42.0.0/16`") from None


def _private_block(text: str) -> str:
    network = _network(text)
    if not any(network.subnet_of(block) for block in PRIVATE):
        raise ValueError(f"`{text}` is not private; take one of {listed_names([str(block) for block in PRIVATE])}")
    if not SMALLEST_PREFIX <= network.prefixlen <= LARGEST_PREFIX:
        size = "small" if network.prefixlen > LARGEST_PREFIX else "large"
        raise ValueError(f"`{text}` is too {size}; from /{SMALLEST_PREFIX} to /{LARGEST_PREFIX} fits")
    return text


def _narrow_block(text: str) -> str:
    network = _network(text)
    if network.prefixlen < 8:
        raise ValueError(
            f"`{text}` is most of the internet; write the addresses that you come from, such as `203.0.113.7/32`"
        )
    return text


def _known_instance(name: str) -> str:
    if name not in INSTANCES:
        raise ValueError(
            f"`{name}` is not known here; {listed_names(near_instances(name))} fits, or write its numbers into "
            "infra/instances.yaml"
        )
    return name


def near_instances(name: str) -> list[str]:
    """Of the same family, else all that have a GPU, else all."""
    family = [each for each in INSTANCES if each.partition(".")[0] == name.partition(".")[0]]
    letter = [each for each in INSTANCES if each[:1] == name[:1]]
    return family or letter or list(INSTANCES)


def _none_twice(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{listed_names(twice, 'and')} stands there twice; leave it out once")
    return names


NoneTwice = AfterValidator(_none_twice)
InstanceName = Annotated[str, AfterValidator(_known_instance), Fits("an instance type such as `m7i.4xlarge`")]
Endpoint = Literal["ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "sts", "autoscaling", "logs"]


class NetworkSpec(Spec):
    """Where the nodes are."""

    cidr: Annotated[str, AfterValidator(_private_block), Fits("a private block of addresses, such as `10.42.0.0/16`")]
    """Of the whole network. It cannot be changed later."""
    zones: Annotated[tuple[str, ...], Field(min_length=2, max_length=3), NoneTwice]
    """Two or three, of the region: EKS refuses a single one, and those with the ids use1-az3, usw1-az2 and cac1-az3."""
    nat: Literal["one", "per_zone"] = "one"
    """Ways out. With `one`, a zone that fails takes the way out of the others with it."""
    endpoints: Annotated[tuple[Endpoint, ...], NoneTwice] = ("ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "sts")
    """Services that are reached without the way out. Each costs by hour and zone; S3's is always there, for nothing."""


class ClusterSpec(Spec):
    """The control plane."""

    version: Version
    """Of Kubernetes. One that AWS no longer supports costs six times as much."""
    admins: Annotated[tuple[RoleArn, ...], Field(min_length=1), NoneTwice]
    """Who may do everything in the cluster. Without one, nobody may do anything."""
    public_access: tuple[Annotated[str, AfterValidator(_narrow_block)], ...] = ()
    """Addresses outside that reach the API server. Without any, it is reached from within the network only."""
    log_days: Literal[30, 60, 90, 180, 365, 731] = 90
    """How long the control plane's logs are kept, the audit log among them."""


class PoolSpec(Spec):
    """Nodes that are alike. Their labels and taints are what k8s/ asks for (infra/pools.py), and no parameters."""

    instances: Annotated[tuple[InstanceName, ...], Field(min_length=1)]
    """One type, or several of the same size: the autoscaler takes the first one's size for all."""
    min: int = Field(default=0, ge=0)
    """Nodes that are always there, and paid for."""
    max: int = Field(ge=1, le=450)
    """Nodes at most. 450 is what EKS allows a node group."""
    disk_gib: int = Field(ge=30, le=16_000)
    """Of one node, for images and for what pods write."""
    zone: str | None = None
    """All of one zone: gradients that cross zones are slow, and cost by the GB. Every zone where nothing is written."""

    @property
    def instance(self) -> Instance:
        """What a node has."""
        return INSTANCES[self.instances[0]]

    @model_validator(mode="after")
    def _max_is_not_below_min(self) -> PoolSpec:
        if self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self

    @model_validator(mode="after")
    def _instances_are_of_one_size(self) -> PoolSpec:
        sizes = {(INSTANCES[name].vcpus, INSTANCES[name].memory_gib, INSTANCES[name].gpus) for name in self.instances}
        if len(sizes) > 1:
            raise ValueError(f"{listed_names(self.instances, 'and')} differ in size; the autoscaler needs them alike")
        return self


class PoolsSpec(Spec):
    """The pools of nodes."""

    system: PoolSpec
    """For what runs the cluster: DNS, operators, the autoscaler. It cannot go down to nothing."""
    cpu: PoolSpec
    """For heads, and for work without GPUs."""
    gpu: PoolSpec | None = None
    """For work with GPUs. None where nothing is written."""
    gpu_spot: PoolSpec | None = None
    """The same, on nodes that may be taken away at two minutes' notice."""

    @model_validator(mode="after")
    def _system_is_there(self) -> PoolsSpec:
        if self.system.min < 1:
            raise ValueError("system.min is 0, and the autoscaler that would start the first node runs on one; write 2")
        return self

    @model_validator(mode="after")
    def _gpus_are_where_they_are_meant(self) -> PoolsSpec:
        for name, pool in (("system", self.system), ("cpu", self.cpu)):
            if pool.instance.gpus:
                raise ValueError(
                    f"{name} has `{pool.instances[0]}`, which is paid for its GPUs; they belong into `gpu`"
                )
        for name, spot in (("gpu", self.gpu), ("gpu_spot", self.gpu_spot)):
            if spot is not None and not spot.instance.gpus:
                raise ValueError(f"{name} has `{spot.instances[0]}`, which has no GPU; `p4d.24xlarge` has eight")
        return self


class TeamSpec(Spec):
    """Who shares a namespace, and a folder of the bucket that no other team's pods can read or write."""

    namespace: Label
    """Made by k8s/."""
    prefix: Prefix | None = None
    """The folder. The namespace's name where nothing is written; `storage` of a cluster file goes on below it."""
    accounts: Annotated[tuple[Label, ...], Field(min_length=1), NoneTwice] = ("rayml-worker", "rayml-head")
    """Service accounts whose pods may use it."""
    reads: Annotated[tuple[Readable, ...], NoneTwice] = ()
    """Buckets, or folders of them, whose data they may read besides: `data.source.path: s3://our-data/images`."""

    @property
    def folder(self) -> str:
        """The prefix, without a slash at its end."""
        return self.prefix or self.namespace


class StorageSpec(Spec):
    """The bucket."""

    keep_old_versions_days: int = Field(default=30, ge=1, le=3650)
    """How long what was written over or deleted can be brought back."""


class WatchSpec(Spec):
    """Who is told, and of what."""

    emails: Annotated[tuple[Email, ...], Field(min_length=1), NoneTwice]
    """Each has to confirm a mail from AWS once."""
    budget_usd_per_month: float = Field(gt=0)
    """Mails at 50, 80 and 100 % of it, and when the month is going to exceed it. It stops nothing."""


class AccountSpec(Spec):
    """The file as a whole."""

    name: Annotated[
        str, Field(pattern=r"^[a-z][a-z0-9-]{1,18}[a-z0-9]$"), Fits("3 to 20 lower case letters, digits, `-`")
    ]
    """Of the cluster, and the beginning of every other name."""
    account: Account
    """Where it is made."""
    region: Region
    """Where it is made."""
    network: NetworkSpec
    cluster: ClusterSpec
    pools: PoolsSpec
    teams: Annotated[tuple[TeamSpec, ...], Field(min_length=1)]
    storage: StorageSpec = StorageSpec()
    images: Annotated[tuple[ImageName, ...], NoneTwice] = ("rayml",)
    """Repositories of the registry."""
    watch: WatchSpec

    @property
    def bucket(self) -> str:
        """Its name, which has to be the only one of that name in the world."""
        return f"{self.name}-{self.account}-{self.region}"

    def role_of(self, team: TeamSpec) -> str:
        """The name of a team's role. IAM has one list of names for all regions."""
        return f"{self.name}-{self.region}-{team.namespace}"

    @model_validator(mode="after")
    def _zones_are_of_the_region(self) -> AccountSpec:
        for zone in self.network.zones:
            if zone[:-1] != self.region or not zone[-1].isalpha():
                raise ValueError(f"zone `{zone}` is not one of {self.region}; write `{self.region}a`")
        pools = (self.pools.system, self.pools.cpu, self.pools.gpu, self.pools.gpu_spot)
        for pool in pools:
            if pool is not None and pool.zone is not None and pool.zone not in self.network.zones:
                raise ValueError(f"zone `{pool.zone}` of a pool is not one of {listed_names(self.network.zones)}")
        return self

    @model_validator(mode="after")
    def _addresses_are_enough(self) -> AccountSpec:
        pools = (self.pools.system, self.pools.cpu, self.pools.gpu, self.pools.gpu_spot)
        nodes = sum(pool.max for pool in pools if pool is not None)
        network = ipaddress.IPv4Network(self.network.cidr)
        per_zone = network.num_addresses // 4 - RESERVED_ADDRESSES
        there, needed = per_zone * len(self.network.zones), nodes * ADDRESSES_PER_NODE
        if there < needed:
            raise ValueError(
                f"network.cidr `{self.network.cidr}` has {there:,} private addresses, and {nodes} nodes take "
                f"{needed:,}; write a larger block such as `10.42.0.0/16`, or a smaller `max`"
            )
        return self

    @model_validator(mode="after")
    def _repositories_are_apart(self) -> AccountSpec:
        known: dict[str, str] = {}
        for image in self.images:
            other = known.setdefault(image.replace("/", "-"), image)
            if other != image:
                raise ValueError(f"images: `{other}` and `{image}` differ only in `/` and `-`; rename one of them")
        return self

    @model_validator(mode="after")
    def _roles_can_be_named(self) -> AccountSpec:
        for team in self.teams:
            role = self.role_of(team)
            if len(role) > LONGEST_ROLE:
                raise ValueError(
                    f"teams: the role `{role}` has {len(role)} characters, and IAM takes {LONGEST_ROLE}; write a "
                    f"shorter `name`, or a namespace of {LONGEST_ROLE - len(role) + len(team.namespace)} at most"
                )
        return self

    @model_validator(mode="after")
    def _teams_are_apart(self) -> AccountSpec:
        folders = [team.folder for team in self.teams]
        for at, one in enumerate(folders):
            for other in folders[at + 1 :]:
                if f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"):
                    raise ValueError(f"teams: `{one}` and `{other}` share a folder; give each a prefix of its own")
        if len({team.namespace for team in self.teams}) < len(self.teams):
            raise ValueError("teams: two have the same namespace")
        if any(place.partition("/")[0] == self.bucket for team in self.teams for place in team.reads):
            raise ValueError(
                f"teams: reads names `{self.bucket}`, where each team has a folder of its own; copy the data"
            )
        return self
