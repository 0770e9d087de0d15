"""What an instance type has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter


class Instance(BaseModel):
    """One type, of x86-64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vcpus: int
    memory_gib: int
    gpus: int = 0
    gpu: str = ""
    quota: Literal["standard", "g", "p4", "p5"]
    """Whose vCPUs count together against a quota of the account."""


def read_instances(path: Path) -> dict[str, Instance]:
    """Name -> what it has."""
    return TypeAdapter(dict[str, Instance]).validate_python(yaml.safe_load(path.read_text()))


INSTANCES = read_instances(Path(__file__).with_name("instances.yaml"))
