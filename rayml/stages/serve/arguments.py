"""What a RayService tells its application: which model, and how it is served. Written by `rayml submit`, read by Serve.

Nothing secret stands in it: `kubectl get rayservice` shows it to everybody who may look.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rayml.errors import StageError
from rayml.plan.plan import Step


class ServeArguments(BaseModel):
    """`args` of the application in serveConfigV2."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    storage: str
    """Where runs and artifacts are."""
    run: str
    artifact: str | None = None
    """Key of the exported model. None where the run's sweep decides it: the run's own plan says it then."""
    min_replicas: int = 1
    max_replicas: int = 1
    cpus: int = 1
    """Of one replica."""
    max_body: int
    """Bytes."""
    max_rows: int
    key: bool = True
    """Whether requests have to show the key of the pod's secret."""
    samples: int
    """Frozen rows that each replica is asked before it becomes ready."""
    gates: dict[str, str]
    """What its answers to them have to keep to."""


def arguments_of(step: Step, storage: str, run: str, artifact: str | None) -> ServeArguments:
    """The arguments of a serve step."""
    policy, config = step.policy, step.config
    return ServeArguments(
        storage=storage,
        run=run,
        artifact=artifact,
        min_replicas=policy["replicas"]["min"],
        max_replicas=policy["replicas"]["max"],
        cpus=step.resources.cpus_per_worker,
        max_body=config["max_body"],
        max_rows=config["max_rows"],
        key=config["auth"] == "bearer",
        samples=config["parity"]["samples"],
        gates=policy["gates"],
    )


def read_arguments(args: dict[str, Any]) -> ServeArguments:
    """StageError where they are not what this rayml writes."""
    try:
        return ServeArguments.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        raise StageError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            where="serveConfigV2: applications[0].args",
            hint="submit the job again with the rayml of the image; rayml submit JOB --cluster FILE writes them",
        ) from None
