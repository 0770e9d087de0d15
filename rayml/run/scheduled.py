"""One start of a schedule: a run of its own, with a plan that is made for the data as it is now.

KubeRay makes a RayJob named SCHEDULE-xxxxx for each start, and a cluster RAYJOB-yyyyy for each attempt of it. So the
five letters of the RayJob tell a retry, which goes on with its run, from the next start, which is a new one. They come
again after some thousand starts: a run is gone on with only if it is young and not done.

Source: ray-operator/controllers/ray/raycronjob_controller.go (constructRayJob), .../utils/util.go
(GenerateRayClusterName) of KubeRay.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rayml import __version__
from rayml.artifacts.bucket import Bucket
from rayml.artifacts.manifest import digest
from rayml.artifacts.opening import open_artifacts, runs_beside
from rayml.backends.kuberay.job import CLUSTER_VARIABLE
from rayml.backends.ray.packing import PLAN_FILE
from rayml.errors import PlanError
from rayml.plan.build import build_plan
from rayml.plan.facts import read_facts
from rayml.plan.plan import Plan
from rayml.plan.sources import fingerprint
from rayml.run.on_cluster import read_plan
from rayml.run.storage import ended_with
from rayml.spec.cluster import read_cluster
from rayml.spec.data import CallableSource
from rayml.spec.job import JobSpec

RETRIED_WITHIN = timedelta(days=7)
"""How long after its start a RayJob may still be tried again."""
STAMP = "%Y%m%d-%H%M%S"
OF_CLUSTER = re.compile(r"-(?P<start>[a-z0-9]{5})(-raycluster)?-[a-z0-9]{5}\Z")
"""The end of a cluster's name: which start of the schedule it is for, and which attempt."""


def plan_start(plan_file: str, storage: str, schedule: str) -> tuple[str, str]:
    """The file of the plan that this start walks, and the name of its run.

    Raises:
        PlanError: the plan or the data cannot be read, or nobody says which start this is.
    """
    sent, now = read_plan(Path(plan_file)), datetime.now(UTC)
    start = which_start(os.environ.get(CLUSTER_VARIABLE, ""))
    run = run_of_start(schedule, start, now, known_starts(storage, schedule, start))
    return str(write_beside(planned_anew(sent, run), Path(plan_file))), run


def which_start(cluster: str) -> str:
    """The five letters that KubeRay gave to the RayJob of this start, from the name of its cluster."""
    found = OF_CLUSTER.search(cluster)
    if found is None:
        raise PlanError(
            f"{cluster!r} is no cluster that KubeRay made for a start of a schedule",
            where=CLUSTER_VARIABLE,
            hint="submit the job again with this version of rayml; without a schedule, leave --scheduled out",
        )
    return found["start"]


def run_of_start(schedule: str, start: str, now: datetime, known: Mapping[str, bool]) -> str:
    """The run of an earlier attempt of this start, or a new one: SCHEDULE-DATE-TIME-START.

    Args:
        known: runs of starts with the same letters to whether they are done.
    """
    form = re.compile(rf"{re.escape(schedule)}-(?P<stamp>\d{{8}}-\d{{6}})-{start}")
    for run in sorted(known, reverse=True):
        found = form.fullmatch(run)
        if found is None or known[run]:
            continue
        if now - datetime.strptime(found["stamp"], STAMP).replace(tzinfo=UTC) < RETRIED_WITHIN:
            return run
    return f"{schedule}-{now:{STAMP}}-{start}"


def known_starts(storage: str, schedule: str, start: str) -> dict[str, bool]:
    """The runs of the storage that a start with these letters has made, and whether they are done."""
    runs = runs_beside(open_artifacts(storage, "read"))
    names = runs.folders("") if isinstance(runs, Bucket) else [path.name for path in runs.glob("*/")]
    ours = [name for name in names if name.startswith(f"{schedule}-") and name.endswith(f"-{start}")]
    return {name: (ended_with(storage, name) or ("", 1))[1] == 0 for name in ours}


def planned_anew(sent: Plan, run: str) -> Plan:
    """The same job for what its source holds now; steps whose inputs are the same keep their keys, and are found.

    A sweep decides anew where the data is another. What a function gives is not known before it is called: it is
    called at each start. Everything else stands as it was submitted: code, weights, the cluster.
    """
    if sent.rayml != __version__:
        return sent  # which whoever walks it refuses
    assert sent.origin is not None, "every plan has an origin"
    job, cluster = JobSpec.model_validate(sent.origin.job), read_cluster(sent.origin.cluster)
    base = Path(sent.base)
    facts = read_facts(sent.origin.facts)
    if facts.sent is None:  # files that travelled with the job stay as they were sent
        facts = replace(facts, source=source_now(job, base, run))
    names = {step.name for step in sent.steps}
    plan = build_plan(job, cluster, facts, sent.job_file, base)
    steps = tuple(step for step in plan.steps if step.name in names)
    return plan.model_copy(update={"steps": steps, "code": sent.code, "ray": sent.ray})


def source_now(job: JobSpec, base: Path, run: str) -> str:
    """The fingerprint of the source at this start."""
    try:
        found = fingerprint(job.data.source, base)
    except PlanError as error:
        raise PlanError(
            error.what,
            where=error.where,
            hint="a schedule looks at its data when it starts, on the head: name a path that is there",
        ) from None
    return digest({"source": found, "start": run}) if isinstance(job.data.source, CallableSource) else found


def write_beside(plan: Plan, sent: Path) -> Path:
    """The plan in a folder of its own, where the user's code is found as beside the one that was sent: that one may lie
    in a mount that nobody can write to."""
    folder = Path(tempfile.mkdtemp(prefix="rayml-start-"))
    if plan.code is not None and not Path(plan.code).is_absolute():
        (folder / plan.code).symlink_to((sent.absolute().parent / plan.code), target_is_directory=True)
    path = folder / PLAN_FILE
    path.write_text(plan.model_dump_json(indent=1))
    return path
