"""The plan as a value: what will happen, with every "auto" a number. It is the only thing that crosses the wire."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


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
    """data, train, export, evaluate or serve; also the name of its stage."""
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


class ClusterPlan(_Value):
    """What Ray is started with."""

    cpus: int
    gpus: int
    object_store: int
    """Bytes of shared memory."""


class Plan(_Value):
    """The whole job, resolved."""

    rayml: str
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

    def step(self, name: str) -> Step:
        """The step of a name; KeyError where the job has none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)
