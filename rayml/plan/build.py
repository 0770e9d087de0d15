"""(job, cluster, facts) -> Plan. Pure: nothing is read and nothing is written; every "auto" becomes a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayml import __version__
from rayml.artifacts.manifest import digest
from rayml.errors import PlanError
from rayml.plan.facts import GIB, Facts
from rayml.plan.plan import ClusterPlan, Plan, Resources, Step
from rayml.plan.training import dump, resolve_train
from rayml.spec.cluster import ClusterSpec
from rayml.spec.job import JobSpec
from rayml.spec.words import count

AUTO_OPSET = 20
AUTO_SHARD_ROWS = 65_536

INPUTS: dict[str, tuple[str, ...]] = {
    "data": (),
    "train": ("data",),
    "export": ("data", "train"),
    "evaluate": ("data", "export"),
    "serve": ("export",),
}
"""Stage to the steps whose artifacts it reads."""


def build_plan(job: JobSpec, cluster: ClusterSpec, facts: Facts, job_file: str, base: Path) -> Plan:
    """Resolve a job. PlanError where the cluster cannot hold it."""
    cluster_plan = ClusterPlan(cpus=facts.cpus, gpus=facts.gpus, object_store=resolve_object_store(cluster, facts))
    keys: dict[str, str] = {}
    steps = []
    for stage, names in INPUTS.items():
        if getattr(job, stage) is None:
            continue
        step = build_step(stage, job, cluster_plan, facts, {name: keys[name] for name in names})
        keys[stage] = step.key
        steps.append(step)
    return Plan(
        rayml=__version__,
        job=job.name,
        seed=job.seed,
        job_file=job_file,
        base=str(base),
        code=None if job.code is None else str(base / job.code),
        cluster=cluster_plan,
        steps=tuple(steps),
    )


def build_step(stage: str, job: JobSpec, cluster: ClusterPlan, facts: Facts, inputs: dict[str, str]) -> Step:
    """One step with its configuration resolved and its key computed."""
    config, policy, resources = RESOLVERS[stage](job, cluster, facts)
    code = facts.code[stage]
    key = digest({"stage": stage, "config": config, "inputs": inputs, "code": code})
    return Step(name=stage, config=config, policy=policy, inputs=inputs, code=code, key=key, resources=resources)


def resolve_object_store(cluster: ClusterSpec, facts: Facts) -> int:
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
    return config, {}, Resources(workers=cluster.cpus, ray=True)


def resolve_export(job: JobSpec, cluster: ClusterPlan, facts: Facts) -> Resolved:
    assert job.export is not None, "a step is made of a section that is present"
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
