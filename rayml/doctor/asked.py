"""What a person asked the doctor to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rayml.spec.kuberay import KubeRayCluster


@dataclass(frozen=True)
class Asked:
    """What `rayml doctor` was called with."""

    home: Path = Path(".rayml")
    """Where runs and artifacts are kept."""
    address: str | None = None
    """Of a Ray head's dashboard."""
    storage: str | None = None
    """A folder or s3://bucket/prefix."""
    kubernetes: KubeRayCluster | None = None
    image: bool = False
    """Whether this is the inside of a container image."""
    fix: bool = False
    """Whether what can be put right without harm is put right."""
