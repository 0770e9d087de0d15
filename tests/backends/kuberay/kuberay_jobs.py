"""Plans of the shipped jobs on the shipped cluster files of kind `kuberay`, from made-up facts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rayml.plan.build import build_plan
from rayml.plan.code import STAGE_CODE
from rayml.plan.deepspeed_check import read_document
from rayml.plan.facts import GIB, Facts, Weights
from rayml.plan.plan import Plan
from rayml.spec.cluster import RayCluster
from rayml.spec.job import JobSpec
from rayml.spec.kuberay import KubeRayCluster
from rayml.spec.load import load_job

ROOT = Path(__file__).parents[3]
JOBS = tuple(sorted((ROOT / "jobs").glob("*.yaml")))
CLUSTERS = ("gpu-a100", "gpu-h100-spot", "cpu-sweep")
SCHEMAS = ROOT.parent / "shared" / "k8s-schemas"
CODE = {stage: f"{stage:_<16.16}" * 2 for stage in STAGE_CODE}


@cache
def cluster_file(name: str) -> KubeRayCluster:
    return cluster_of({})(name)


def cluster_of(changes: dict[str, Any]):
    """A function from the name of a cluster file to its cluster with other values on top."""

    def read(name: str) -> KubeRayCluster:
        document = yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())
        return KubeRayCluster.model_validate({**document, **changes})

    return read


@cache
def plan_of(job: str, cluster_name: str) -> Plan:
    cluster = cluster_file(cluster_name)
    spec = load_job(ROOT / "jobs" / f"{job}.yaml", ())
    return build_plan(spec, cluster, facts_of(spec, cluster), f"jobs/{job}.yaml", ROOT / "jobs")


def facts_of(spec: JobSpec, cluster: KubeRayCluster | RayCluster) -> Facts:
    """Made-up facts: a plan from them is the same on every machine."""
    starts = spec.train is not None and spec.train.start is not None
    return Facts(
        cpus=cluster.cpus,
        gpus=cluster.gpus,
        memory=64 * GIB,
        source="f" * 32,
        code=CODE,
        own=CODE,
        start=Weights("w" * 32, "/weights") if starts else None,
        deepspeed=read_document(spec, ROOT / "jobs"),
    )


def pod_templates(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pod template in a document, found by its shape; the autoscaler's container is put into the head's."""
    found = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("spec"), dict) and "containers" in value["spec"]:
                found.append(value)
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(document)
    return found


def ray_cluster(document: dict[str, Any]) -> dict[str, Any] | None:
    """The RayCluster spec in a document, None where it has none."""
    spec = document.get("spec", {})
    inside = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
    if document["kind"] == "RayCronJob":
        return spec["jobTemplate"]["rayClusterSpec"]
    if document["kind"] not in inside:
        return None
    for key in inside[document["kind"]]:
        spec = spec[key]
    return spec
