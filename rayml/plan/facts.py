"""What the plan has to know of the world: this machine, the data's fingerprint, the code. Gathered once."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rayml.artifacts.bucket import bucket_at, in_bucket
from rayml.artifacts.manifest import digest
from rayml.errors import PlanError
from rayml.plan.code import STAGE_CODE, code_digest
from rayml.plan.deepspeed_check import read_document
from rayml.plan.sources import fingerprint
from rayml.spec.cluster import Cluster
from rayml.spec.compress import Distill
from rayml.spec.job import JobSpec
from rayml.spec.model import CallableModel
from rayml.spec.start import FolderStart, RunStart

GIB = 2**30
MODEL_FILE = "model.json"
"""Of a train artifact: how its model is built."""


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
    """Stage to the digest of rayml's code behind it."""
    own: dict[str, str] = field(default_factory=dict)
    """Stage to the digest of that code and the user's, where the job has some."""
    linux: bool = True
    """Whether this machine runs Linux."""
    start: Weights | None = None
    """The weights that training starts from, where they lie here."""
    deepspeed: dict[str, Any] | None = None
    """What the DeepSpeed file of `strategy.config` holds."""
    warm: tuple[dict[str, Any], ...] = ()
    """Trials of the sweeps that `tune.warm_start` names: `point`, `status` and `values` of each."""

    teachers: dict[str, Weights] = field(default_factory=dict)
    """The best weights of the runs that passes of the ladder learn from, by run."""

    sent: str | None = None
    """`s3://bucket/prefix` where the source's files were sent from this machine; None where it is read at its path."""


@dataclass(frozen=True)
class Weights:
    """Weights on this machine or in a bucket."""

    digest: str
    """Of what they are."""
    path: str
    """Absolute, or `s3://bucket/path`."""
    model: dict[str, Any] | None = None
    """The `model` section that they were trained with, where rayml trained them."""
    sent: str | None = None
    """`s3://bucket/path` that has a copy for nodes which do not see the path."""

    @property
    def place(self) -> str:
        """Where whoever walks the plan finds them."""
        return self.sent or self.path


RunWeights = Callable[[str], Weights]
"""The weights of another run, by its id."""
RunTrials = Callable[[str], list[dict[str, Any]]]
"""`point`, `status` and `values` of the trials of another run's sweep, by its id."""


def gather_facts(
    job: JobSpec,
    cluster: Cluster,
    base: Path,
    run_weights: RunWeights | None = None,
    run_trials: RunTrials | None = None,
) -> Facts:
    """Look at this machine and at the job's files. PlanError where a source or the code folder is not there."""
    user_code = None if job.code is None else base / job.code
    return Facts(
        cpus=len(os.sched_getaffinity(0)) if cluster.cpus == "auto" else cluster.cpus,
        gpus=count_gpus() if cluster.gpus == "auto" else cluster.gpus,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        source=fingerprint(job.data.source, base),
        code={stage: code_digest(stage, None) for stage in STAGE_CODE},
        own={} if user_code is None else {stage: code_digest(stage, user_code) for stage in USER_STAGES},
        linux=platform.system() == "Linux",
        start=find_weights(job, base, run_weights),
        deepspeed=read_document(job, base),
        warm=tuple(find_trials(job, run_trials)),
        teachers=find_teachers(job, run_weights),
    )


def find_teachers(job: JobSpec, run_weights: RunWeights | None) -> dict[str, Weights]:
    """The models that the ladder's students learn from besides the job's own."""
    ladder = () if job.compress is None else job.compress.ladder
    runs = [run for each in ladder if isinstance(each, Distill) for run in each.teachers]
    assert run_weights is not None or not runs, "whoever plans a job with teachers says how to find a run's weights"
    return {run: run_weights(run) for run in runs} if run_weights else {}


def find_trials(job: JobSpec, run_trials: RunTrials | None) -> list[dict[str, Any]]:
    """What the sweeps that `tune.warm_start` names have found."""
    names = () if job.tune is None else job.tune.warm_start
    assert run_trials is not None or not names, "whoever plans a job with a warm start says how to find a run's trials"
    return [trial for name in names for trial in (run_trials(name) if run_trials else [])]


def read_facts(document: dict[str, Any]) -> Facts:
    """The facts that `dataclasses.asdict` wrote down."""
    start = document["start"]
    read = {"start": None if start is None else Weights(**start), "warm": tuple(document["warm"])}
    teachers = {run: Weights(**weights) for run, weights in document.get("teachers", {}).items()}
    return Facts(**{**document, **read, "teachers": teachers})


def find_weights(job: JobSpec, base: Path, run_weights: RunWeights | None) -> Weights | None:
    """What `train.start` names, if it is a run or a folder; what others publish is fetched when it is needed."""
    start = None if job.train is None else job.train.start
    if isinstance(start, RunStart):
        assert run_weights is not None, "whoever plans a job that starts from a run says how to find one"
        return run_weights(start.run)
    if not isinstance(start, FolderStart):
        return None
    if in_bucket(start.path):
        return weights_in_bucket(start.path.rstrip("/"))
    path = (base / start.path).resolve()
    try:
        return weights_here(path)
    except OSError as error:
        raise PlanError(f"{error.filename} cannot be read: {error.strerror}", where="train.start.path") from None


def weights_here(path: Path) -> Weights:
    """The weights at a path of this machine, known by names, sizes and times of change. OSError for a dead link."""
    if not path.exists():
        raise PlanError(f"there is no {path}", where="train.start.path", hint="the path is relative to the job file")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    listed = [[str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    document = (path / MODEL_FILE).read_bytes() if (path / MODEL_FILE).is_file() else None
    return Weights(digest({"files": listed}), str(path), trained_model(document))


def weights_in_bucket(uri: str) -> Weights:
    """The same for a prefix or an object of a bucket."""
    bucket = bucket_at(uri)
    found = bucket.entries("") or [
        entry for entry in [bucket_at(uri.rpartition("/")[0]).find(PurePosixPath(uri).name)] if entry
    ]
    if not found:
        raise PlanError(f"there is no {uri}", where="train.start.path", hint="aws s3 ls shows what is there")
    listed = [[entry.path, entry.bytes, entry.etag] for entry in found]
    document = bucket.read(MODEL_FILE)
    return Weights(digest({"files": listed}), uri, trained_model(document and document[0]))


def trained_model(document: bytes | None) -> dict[str, Any] | None:
    """The `model` section that a train artifact's model.json holds; None for weights of others."""
    if document is None:
        return None
    try:
        model: dict[str, Any] | None = json.loads(document)["model"]
    except (ValueError, KeyError, TypeError):
        return None
    return model


def count_gpus() -> int:
    """NVIDIA GPUs that the driver lists."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


USER_STAGES = ("data", "train", "compress", "export")
"""Stages that may run modules of the job's `code:` folder."""


def code_of(stage: str, job: JobSpec, facts: Facts) -> str:
    """Digest of the code that a stage of this job runs, the user's with it where it does."""
    return facts.own.get(stage, facts.code[stage]) if runs_user_code(stage, job) else facts.code[stage]


def runs_user_code(stage: str, job: JobSpec) -> bool:
    """Whether a stage runs modules of the job's `code:` folder."""
    if stage == "data":
        return job.data.source.kind == "callable"
    return stage in ("train", "compress", "export") and isinstance(job.model, CallableModel)
