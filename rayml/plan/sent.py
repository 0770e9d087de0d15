"""Which files of this machine travel with a job to a cluster that does not see them, and where to.

Those that the job file names relative to itself, and weights of runs of this machine, go to the bucket of the
cluster's storage. An absolute path is one that every node sees; so is a storage in a folder, and what lies beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rayml.artifacts.bring import WEIGHTS
from rayml.artifacts.bucket import in_bucket
from rayml.errors import PlanError
from rayml.plan.facts import Facts, Weights, find_weights, read_facts
from rayml.plan.listing import SourceFile
from rayml.plan.plan import Plan
from rayml.plan.sources import fingerprint_of, is_in_bucket, list_files
from rayml.spec.cluster import Cluster, LocalCluster
from rayml.spec.data import CallableSource, SklearnSource
from rayml.spec.job import JobSpec
from rayml.spec.start import FolderStart

FOLDER = "sent"
"""Of a storage, beside its runs and artifacts."""


@dataclass(frozen=True)
class Shipment:
    """Files that travel together."""

    what: str
    """As the job file calls them."""
    root: Path
    """The folder that their names start at."""
    files: tuple[SourceFile, ...]
    place: str
    """`s3://bucket/prefix` that has them afterwards, under the same names. It changes when they do."""
    counted: bool = False
    """Whether their number and size is written beside them once they are there, for a reader who takes what it finds.
    Weights that are not whole cannot be loaded."""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files)


def with_sent(facts: Facts, job: JobSpec, cluster: Cluster) -> Facts:
    """The facts with the places where files of this machine will be for the cluster."""
    storage = None if isinstance(cluster, LocalCluster) else cluster.storage.rstrip("/")
    if storage is None or not in_bucket(storage):
        return facts
    start = facts.start
    if start is not None and not is_seen_by_all(job):
        start = with_place(start, storage)
    return replace(
        facts,
        sent=f"{storage}/{FOLDER}/data-{facts.source}" if source_travels(job) else None,
        start=start,
        teachers={run: with_place(weights, storage) for run, weights in facts.teachers.items()},
    )


def shipments(plan: Plan) -> Iterator[Shipment]:
    """What has to be sent before the plan can be walked. Lists the files again.

    Raises:
        PlanError: they are not there any more, or others are there than when the plan was made.
    """
    assert plan.origin is not None, "every plan has an origin"
    job, facts = JobSpec.model_validate(plan.origin.job), read_facts(plan.origin.facts)
    source = job.data.source
    if facts.sent is not None and not isinstance(source, SklearnSource | CallableSource):
        what, listing = f"data.source.path {source.path}", list_files(source, Path(plan.base))
        refuse_others(what, fingerprint_of(source, listing), facts.source)
        yield Shipment(what, Path(listing.root), listing.files, facts.sent, counted=True)
    if facts.start is not None and facts.start.sent is not None:
        if job.train is not None and isinstance(job.train.start, FolderStart):
            now = find_weights(job, Path(plan.base), None)
            refuse_others("train.start", None if now is None else now.digest, facts.start.digest)
        yield weights_shipment("train.start", facts.start)
    for run, weights in facts.teachers.items():
        if weights.sent is not None:
            yield weights_shipment(f"the teacher {run}", weights)


def refuse_others(what: str, found: str | None, planned: str) -> None:
    """PlanError where the files are not those that the place they would go to is named after."""
    if found != planned:
        raise PlanError("the files changed since the plan was made", where=what, hint="submit the job again")


def source_travels(job: JobSpec) -> bool:
    """Whether the source is files that lie where the job file lies."""
    source = job.data.source
    if isinstance(source, SklearnSource | CallableSource):
        return False
    return not is_in_bucket(source) and not Path(source.path).is_absolute()


def is_seen_by_all(job: JobSpec) -> bool:
    """Whether the weights to start from are named by an absolute path."""
    start = None if job.train is None else job.train.start
    return isinstance(start, FolderStart) and Path(start.path).is_absolute()


def with_place(weights: Weights, storage: str) -> Weights:
    """Weights with the place where they will be; those of a bucket are there."""
    if in_bucket(weights.path):
        return weights
    return replace(weights, sent=f"{storage}/{FOLDER}/weights-{weights.digest[:32]}/{Path(weights.path).name}")


def weights_shipment(what: str, weights: Weights) -> Shipment:
    """A file of weights, or those of a folder with what describes them."""
    assert weights.sent is not None, "whoever asks has looked"
    path = Path(weights.path)
    if not path.is_dir():
        return Shipment(what, path.parent, (described(path),), weights.sent.rpartition("/")[0])
    files = sorted(each for each in path.iterdir() if each.is_file() and each.suffix in WEIGHTS)
    return Shipment(what, path, tuple(described(each) for each in files), weights.sent)


def described(path: Path) -> SourceFile:
    status = path.stat()
    return SourceFile(path.name, status.st_size, status.st_mtime_ns)
