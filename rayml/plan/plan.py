"""The plan as a value: what will happen, with every "auto" a number. It is the only thing that crosses the wire."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from rayml.artifacts.manifest import digest


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Resources(_Value):
    """What a step holds while it runs."""

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: int = 0
    ray: bool = False
    """Whether the step needs a Ray cluster."""
    alone: bool = False
    """Whether a Ray cluster of the run's own is stopped meanwhile: its processes take 5 % of two CPUs."""

    def __str__(self) -> str:
        gpus = f" + {self.gpus_per_worker} GPU" if self.gpus_per_worker else ""
        return f"{self.workers} x {self.cpus_per_worker} CPU{gpus}"


class Step(_Value):
    """One stage with its resolved configuration."""

    name: str
    """data, tune, train, compress, export, evaluate or serve; also the name of its stage."""
    config: dict[str, Any]
    """What decides the result. Part of the key."""
    policy: dict[str, Any] = {}
    """What decides how it is done, and not what comes out: retries, ports, gates. Not part of the key."""
    inputs: dict[str, str]
    """Name of each input to the key of the artifact that it is."""
    code: str
    """Digest of rayml's and the user's code that the step runs."""
    key: str
    resources: Resources


def make_step(
    name: str,
    config: dict[str, Any],
    inputs: dict[str, str],
    code: str,
    policy: dict[str, Any] | None = None,
    resources: Resources | None = None,
) -> Step:
    """A step with its key."""
    key = digest({"stage": name, "config": config, "inputs": inputs, "code": code})
    resources = resources or Resources()
    return Step(name=name, config=config, policy=policy or {}, inputs=inputs, code=code, key=key, resources=resources)


class NodesPlan(_Value):
    """Nodes that come and go with the work."""

    min: int
    max: int
    cpus: int
    gpus: int
    idle_s: float
    price_per_hour: float | None = None


class ClusterPlan(_Value):
    """What Ray is started with."""

    cpus: int
    gpus: int
    object_store: int
    """Bytes of shared memory."""
    price_per_hour: float | None = None
    """Of the machine, of the head node, or of all that a cluster elsewhere may take."""
    price_per_month: float | None = None
    """Of what stands whether or not a job runs."""
    nodes: NodesPlan | None = None
    attach: bool = False
    """Whether Ray runs already where the plan is walked, and is joined and left as it is."""


class Origin(_Value):
    """What a plan was made from, so that it can be made again with other values: by a sweep, and after it."""

    job: dict[str, Any]
    """The job's document, without what its author left out."""
    cluster: dict[str, Any]
    """The cluster file's document."""
    facts: dict[str, Any]
    """The values of rayml.plan.facts.Facts."""


class Decision(_Value):
    """The trial of a sweep that the steps after it go on with."""

    trial: int
    values: dict[str, Any]
    """Key of the job to value, as `tune.final` makes them."""
    population: dict[str, Any] | None = None
    """What names the weights of a trial that took over those of others: no job file trains them again."""
    objectives: dict[str, float]
    """Metric to value."""
    why: str
    """In one sentence: best, knee, or tied with others."""
    tied: tuple[int, ...] = ()
    """Other trials that cannot be told from it."""
    interval: tuple[float, float] | None = None
    """95 % interval of the first objective, where it can be said."""


class Plan(_Value):
    """The whole job, resolved."""

    rayml: str
    ray: str = ""
    """The version of Ray where the plan was made; empty in plans of an older rayml."""
    job: str
    seed: int
    job_file: str
    """As it was typed; for people, never read again."""
    base: str
    """Absolute folder of the job file: relative paths in the configuration start here."""
    code: str | None
    """Absolute folder of the user's modules."""
    cluster: ClusterPlan
    steps: tuple[Step, ...]
    origin: Origin | None = None
    decision: Decision | None = None
    """What the job's sweep decided; None before it is done, and where there is no sweep."""

    def step(self, name: str) -> Step:
        """The step of a name; KeyError where the job has none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)
