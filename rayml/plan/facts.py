"""What the plan has to know of the world: this machine, the data's fingerprint, the code. Gathered once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rayml.plan.code import STAGE_CODE, code_digest
from rayml.plan.sources import fingerprint
from rayml.spec.cluster import ClusterSpec
from rayml.spec.job import JobSpec
from rayml.spec.model import CallableModel

GIB = 2**30


@dataclass(frozen=True)
class Facts:
    """Everything outside the two files that decides what a plan says."""

    cpus: int
    gpus: int
    memory: int
    """Bytes of RAM."""
    source: str
    """Digest of what the data source holds now."""
    code: dict[str, str]
    """Stage to the digest of its code."""


def gather_facts(job: JobSpec, cluster: ClusterSpec, base: Path) -> Facts:
    """Look at this machine and at the job's files. PlanError where a source or the code folder is not there."""
    user_code = None if job.code is None else base / job.code
    return Facts(
        cpus=len(os.sched_getaffinity(0)) if cluster.cpus == "auto" else cluster.cpus,
        gpus=count_gpus() if cluster.gpus == "auto" else cluster.gpus,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        source=fingerprint(job.data.source, base),
        code={stage: code_digest(stage, user_code if runs_user_code(stage, job) else None) for stage in STAGE_CODE},
    )


def count_gpus() -> int:
    """NVIDIA GPUs that the driver lists."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def runs_user_code(stage: str, job: JobSpec) -> bool:
    """Whether a stage runs modules of the job's `code:` folder."""
    if stage == "data":
        return job.data.source.kind == "callable"
    return stage in ("train", "export") and isinstance(job.model, CallableModel)
