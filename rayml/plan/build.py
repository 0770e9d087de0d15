"""(job, cluster, facts) -> Plan. Pure: nothing is read and nothing is written; every "auto" becomes a number."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rayml import __version__
from rayml.artifacts.manifest import digest
from rayml.errors import PlanError
from rayml.plan.compressing import resolve_compress
from rayml.plan.facts import GIB, Facts, code_of, read_facts
from rayml.plan.plan import ClusterPlan, Decision, NodesPlan, Origin, Plan, Resources, Step, make_step
from rayml.plan.training import dump, resolve_train, resolve_workers
from rayml.plan.tuning import as_part_of_a_trial, build_tune_step, check_fits
from rayml.spec.check import check_job
from rayml.spec.cluster import Cluster, LocalCluster, read_cluster
from rayml.spec.job import JobSpec
from rayml.spec.point import job_document, put_values
from rayml.spec.space import Point
from rayml.spec.sweep import first_refusal
from rayml.spec.tune import COMPRESS_METRICS, EXPORT_METRICS, TuneSpec
from rayml.spec.words import count

AUTO_OPSET = 20
AUTO_SHARD_ROWS = 65_536

INPUTS: dict[str, tuple[str, ...]] = {
    "data": (),
    "tune": ("data",),
    "train": ("data",),
    "compress": ("data", "train"),
    "export": ("data", "train", "compress"),
    "evaluate": ("data", "export"),
    "serve": ("export",),
}
"""Stage to the steps whose artifacts it reads, where the job has them."""


def build_plan(
    job: JobSpec, cluster: Cluster, facts: Facts, job_file: str, base: Path, decision: Decision | None = None
) -> Plan:
    """Resolve a job. PlanError where the cluster cannot hold it.

    Args:
        decision: what the job's sweep decided. Until it is known, the steps after the sweep are resolved as the job
            stands, so that what is wrong with them is found, and have keys that no artifact has.
    """
    cluster_plan = resolve_cluster(cluster, facts)
    origin = Origin(
        job=job_document(job),
        cluster=cluster.model_dump(mode="json"),
        facts={**asdict(facts), "warm": list(facts.warm)},
    )
    decided = job if decision is None else decide(job, decision)
    keys: dict[str, str] = {}
    steps: list[Step] = []
    for stage, names in INPUTS.items():
        if getattr(job, stage) is None:
            continue
        inputs = {name: keys[name] for name in names if name in keys}
        if stage == "tune":
            step = build_tune_step(job, origin, cluster_plan, facts, build_trial(origin, {}))
        else:
            step = build_step(stage, decided, cluster_plan, facts, inputs, decision)
        if decision is None and "tune" in keys:
            step = step.model_copy(update={"key": digest({"stage": stage, "decided by": keys["tune"]})})
        keys[stage] = step.key
        steps.append(step)
    return Plan(
        rayml=__version__,
        ray=version("ray"),
        job=job.name,
        seed=job.seed,
        job_file=job_file,
        base=str(base),
        code=None if job.code is None else str(base / job.code),
        cluster=cluster_plan,
        steps=tuple(steps),
        origin=origin,
        decision=decision,
    )


def rebuild_plan(plan: Plan, decision: Decision) -> Plan:
    """The same job with the decision of its sweep, and the user's code where the plan has it now."""
    assert plan.origin is not None, "every plan has an origin"
    origin = plan.origin
    job, cluster = JobSpec.model_validate(origin.job), read_cluster(origin.cluster)
    found = build_plan(job, cluster, read_facts(origin.facts), plan.job_file, Path(plan.base), decision)
    return found.model_copy(update={"code": plan.code, "ray": plan.ray})


def decide(job: JobSpec, decision: Decision) -> JobSpec:
    """The job with the values of the trial that was chosen."""
    return JobSpec.model_validate(put_values(job_document(job), decision.values))


def build_step(
    stage: str,
    job: JobSpec,
    cluster: ClusterPlan,
    facts: Facts,
    inputs: dict[str, str],
    decision: Decision | None = None,
) -> Step:
    """One step with its configuration resolved and its key computed."""
    config, policy, resources = RESOLVERS[stage](job, cluster, facts)
    if stage == "train" and decision is not None and decision.population is not None:
        config["population"] = decision.population
    code = code_of(stage, job, facts)
    return make_step(stage, config, inputs, code, policy, resources)


def build_trial(origin: Origin, values: Point, population: dict[str, Any] | None = None) -> list[Step]:
    """The steps of one trial: up to train, and export where an objective or a limit asks for the exported model.

    They have the keys that the same steps have in a job with these values, so what a trial made is found again.

    Args:
        values: key of the job to value.
        population: see Decision.
    Raises:
        PlanError: the job with these values cannot be planned.
    """
    document, job = trial_job(origin.job, values)
    facts = read_facts(origin.facts)
    whole = resolve_cluster(read_cluster(origin.cluster), facts)
    assert job.train is not None and job.tune is not None, "checked with the spec"
    workers = resolve_workers(job.train, whole)
    job = JobSpec.model_validate(put_values(document, {"train.workers": workers}))
    own_cpus = workers * job_tune(job).cpus_per_worker
    has_gpus = whole.gpus or (whole.nodes is not None and whole.nodes.gpus)
    check_fits(whole, own_cpus, workers if has_gpus else 0)
    held = {"cpus": own_cpus, "gpus": workers if has_gpus else 0, "nodes": None, "attach": False}
    cluster = whole.model_copy(update=held)
    marked = None if population is None else Decision(trial=-1, values={}, population=population, objectives={}, why="")
    steps: list[Step] = []
    for stage in trial_stages(job):
        inputs = {step.name: step.key for step in steps if step.name in INPUTS[stage]}
        steps.append(build_step(stage, job, cluster, facts, inputs, marked))
    return [as_part_of_a_trial(step) for step in steps]


def trial_job(document: dict[str, Any], values: Point) -> tuple[dict[str, Any], JobSpec]:
    """The document and job of a trial. PlanError where the job's rules refuse the values."""
    with_export = {"export": {}, **document}
    changed = with_onnx_alone(without_budget(put_values(with_export, values)))
    problem = first_refusal(with_export, values, check_job)
    if problem is not None:
        raise PlanError(problem, where="tune.space", hint="write a constraint that leaves such configurations out")
    return changed, JobSpec.model_validate(changed)


def without_budget(document: dict[str, Any]) -> dict[str, Any]:
    """A trial's compression ends with its last rung: what may be lost is weighed between trials, by limits."""
    if "compress" not in document:
        return document
    return {**document, "compress": {**document["compress"], "budget": {}}}


def with_onnx_alone(document: dict[str, Any]) -> dict[str, Any]:
    """Of a trial's files only the one that is measured is written."""
    return {**document, "export": {**(document["export"] or {}), "formats": ["onnx"]}}


def job_tune(job: JobSpec) -> TuneSpec:
    assert job.tune is not None, "a trial is of a job with a sweep"
    return job.tune


def trial_stages(job: JobSpec) -> tuple[str, ...]:
    """The steps of a trial, as far as the objectives need them."""
    compresses = job.compress is not None and measures_file(job_tune(job), COMPRESS_METRICS + EXPORT_METRICS)
    exports = measures_file(job_tune(job), EXPORT_METRICS)
    return ("data", "train", *("compress",) * compresses, *("export",) * exports)


def measures_file(tune: TuneSpec, metrics: tuple[str, ...]) -> bool:
    """Whether an objective or a limit asks for one of these metrics."""
    asked = [*(objective.metric for objective in tune.objectives), *tune.limits]
    return any(metric in metrics for metric in asked)


def resolve_cluster(cluster: Cluster, facts: Facts) -> ClusterPlan:
    """What Ray is started with, or what may be taken of a Ray that runs."""
    if not isinstance(cluster, LocalCluster):
        return ClusterPlan(
            cpus=facts.cpus,
            gpus=facts.gpus,
            object_store=0,
            price_per_hour=cluster.price_per_hour,
            price_per_month=cluster.price_per_month,
            attach=True,
        )
    nodes = cluster.nodes
    if nodes is not None and nodes.gpus:
        raise PlanError(
            f"nodes of this machine with {count(nodes.gpus, 'GPU')} each would all be given the same ones",
            where="nodes.gpus",
            hint="leave nodes out, and let the machine's own GPUs be shared: gpus: N",
        )
    return ClusterPlan(
        cpus=facts.cpus,
        gpus=facts.gpus,
        object_store=resolve_object_store(cluster, facts),
        price_per_hour=cluster.price_per_hour,
        nodes=nodes and NodesPlan(**nodes.model_dump(exclude={"idle"}), idle_s=nodes.idle),
    )


def resolve_object_store(cluster: LocalCluster, facts: Facts) -> int:
    """Bytes of shared memory for Ray's objects."""
    if cluster.object_store != "auto":
        return cluster.object_store
    return min(2 * GIB, max(facts.memory // 10, 80 * 2**20))


Resolved = tuple[dict[str, Any], dict[str, Any], Resources]
"""Configuration that is part of the key, policy that is not, resources."""


def resolve_data(job: JobSpec, cluster: ClusterPlan, facts: Facts) -> Resolved:
    config = dump(job.data)
    config["shard_rows"] = AUTO_SHARD_ROWS if job.data.shard_rows == "auto" else job.data.shard_rows
    config.update(seed=job.seed, task=job.task.kind, fingerprint=facts.source)
    policy = {} if facts.sent is None else {"sent": facts.sent}
    return config, policy, Resources(workers=cluster.cpus, ray=True)


def resolve_export(job: JobSpec, cluster: ClusterPlan, facts: Facts) -> Resolved:
    assert job.export is not None, "a step is made of a section that is present"
    if "executorch" in job.export.formats and find_spec("executorch") is None:
        raise PlanError(
            "executorch is not installed", where="export.formats", hint="pip install 'rayml[mobile]', or leave it out"
        )
    config = {
        "name": job.name,
        "formats": list(job.export.formats),
        "opset": AUTO_OPSET if job.export.opset == "auto" else job.export.opset,
        "parity": {"samples": job.export.parity.samples},
        "seed": job.seed,
    }
    gates = {"parity_max_abs_diff": f"<= {job.export.parity.tolerance}", "parity_label_mismatches": "<= 0"}
    return config, {"gates": gates}, Resources(cpus_per_worker=cluster.cpus)


def resolve_evaluate(job: JobSpec, cluster: ClusterPlan, facts: Facts) -> Resolved:
    assert job.evaluate is not None, "a step is made of a section that is present"
    config = {"split": job.evaluate.split, "bootstrap": job.evaluate.bootstrap, "seed": job.seed}
    return config, {"gates": dict(job.evaluate.gates)}, Resources(cpus_per_worker=cluster.cpus)


def resolve_serve(job: JobSpec, cluster: ClusterPlan, facts: Facts) -> Resolved:
    assert job.serve is not None, "a step is made of a section that is present"
    serve = job.serve
    config = {
        "name": job.name,
        "auth": serve.auth,
        "max_body": serve.max_body,
        "max_rows": serve.max_rows,
        "parity": {"samples": serve.parity.samples},
    }
    policy = {
        "host": serve.host,
        "port": serve.port,
        "replicas": dump(serve.replicas),
        "gates": {"parity_max_abs_diff": f"<= {serve.parity.tolerance}", "parity_label_mismatches": "<= 0"},
    }
    if serve.replicas.min > cluster.cpus:
        raise PlanError(
            f"{serve.replicas.min} replicas, and the cluster has {count(cluster.cpus, 'CPU')}, one for each",
            where="serve.replicas.min",
            hint=f"type --set serve.replicas.min={cluster.cpus} or name a larger --cluster",
        )
    return config, policy, Resources(workers=serve.replicas.min, ray=True)


RESOLVERS = {
    "data": resolve_data,
    "train": resolve_train,
    "compress": resolve_compress,
    "export": resolve_export,
    "evaluate": resolve_evaluate,
    "serve": resolve_serve,
}


def cut_after(plan: Plan, last: str) -> Plan:
    """The plan up to and with one step. PlanError where it has no such step."""
    names = [step.name for step in plan.steps]
    if last not in names:
        raise PlanError(f"{last} is not a step of this job", where="--to", hint=f"its steps: {', '.join(names)}")
    return plan.model_copy(update={"steps": plan.steps[: names.index(last) + 1]})
