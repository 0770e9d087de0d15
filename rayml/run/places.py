"""Where a run is that somebody asks for: the cluster file it was submitted with says it, or an address or a storage."""

from __future__ import annotations

from pathlib import Path

from rayml.errors import PlanError
from rayml.spec.cluster import RayCluster
from rayml.spec.kuberay import KubeRayCluster
from rayml.spec.load import load_cluster


def kubernetes_of(file: Path | None) -> KubeRayCluster | None:
    """The cluster of a file of kind kuberay; None for another one, or without a file."""
    named = None if file is None else load_cluster(file)
    return named if isinstance(named, KubeRayCluster) else None


def ray_of(file: Path | None) -> RayCluster | None:
    """The cluster of a file of kind ray. PlanError for a file of this machine, where nothing was submitted."""
    named = None if file is None else load_cluster(file)
    if named is None or isinstance(named, RayCluster):
        return named
    raise PlanError(
        "this cluster file is of this machine, and no run was submitted to it",
        where=f"--cluster {file}",
        hint="leave --cluster out; --home names the folder of its runs",
    )


def storage_of(file: Path | None, storage: str | None) -> str | None:
    """The storage that is named outright, or by the file."""
    cluster = ray_of(file)
    return storage or (cluster.storage if cluster else None)


def address_of(file: Path | None, address: str | None) -> str:
    """The same of a head's address. PlanError where none is named."""
    cluster = ray_of(file)
    found = address or (cluster.address if cluster else None)
    if found is None:
        raise PlanError(
            "which cluster does the run go on at?",
            where="--cluster",
            hint="name the cluster file that it was submitted with, or --address http://HEAD:8265",
        )
    return found
