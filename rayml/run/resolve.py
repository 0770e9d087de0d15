"""From a job file to a plan: load, check, resolve, and settle what a sweep that is done has decided."""

from __future__ import annotations

from pathlib import Path

from rayml.artifacts.store import LocalStore
from rayml.errors import PlanError
from rayml.observe.runs import Home
from rayml.plan.build import build_plan, cut_after
from rayml.plan.facts import gather_facts
from rayml.plan.plan import Plan
from rayml.plan.sent import with_sent
from rayml.plan.settle import settle_if_possible
from rayml.plan.show import last_seconds
from rayml.plan.tuning import check_sweep
from rayml.run.starts import Origins
from rayml.spec.cluster import Cluster, LocalCluster
from rayml.spec.job import JobSpec
from rayml.spec.load import load_cluster, load_job, locate


def resolve(
    job: Path, overrides: list[str], cluster: Path | Cluster | None, home: Path, to: str | None = None
) -> tuple[Plan, LocalStore, Plan | None]:
    """The plan, the store, and the plan of this job's last run.

    Args:
        overrides: `a.b=value`, for keys of the job file.
        cluster: the cluster, or its file; None for this machine.
        to: the last step of the plan; None for all.
    Raises:
        SpecError: the job or cluster file is wrong.
        PlanError: the job does not fit the cluster, or what it names is not there.
    """
    spec = load_job(job, overrides)
    cluster_spec = load_cluster(cluster) if cluster is None or isinstance(cluster, Path) else cluster
    base = job.absolute().parent
    folders = Home(home)
    origins = Origins(folders, None if isinstance(cluster_spec, LocalCluster) else cluster_spec.storage)
    facts = gather_facts(spec, cluster_spec, base, origins.weights, origins.trials)
    facts = with_sent(facts, spec, cluster_spec)
    store = LocalStore(folders.artifacts)
    try:
        plan = build_plan(spec, cluster_spec, facts, str(job), base)
        if spec.tune is not None:
            check_sweep(plan, last_seconds(spec.name, store))
    except PlanError as error:
        raise at_its_line(error, job) from None
    plan = settle_if_possible(plan, store)
    return plan if to is None else cut_after(plan, to), store, folders.latest_plan(spec.name)


def require_here(plan: Plan) -> None:
    """PlanError where a plan is for a cluster that is not this machine."""
    if plan.cluster.attach:
        raise PlanError(
            "rayml run works on this machine, and the cluster file names another one",
            where="--cluster",
            hint="type rayml submit with the same arguments",
        )


def at_its_line(error: PlanError, job: Path) -> PlanError:
    """The error with the file and line of the key that it is about, where the job file has it."""
    line = locate(job, error.where) if error.where.partition(".")[0] in JobSpec.model_fields else None
    return error if line is None else PlanError(error.what, where=f"{job}:{line}: {error.where}", hint=error.hint)
