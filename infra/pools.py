"""The pools of nodes: labels and taints, which are those that k8s/ and the cluster files select."""

from __future__ import annotations

from dataclasses import dataclass

from infra.account import AccountSpec, PoolSpec

POOL_LABEL = "rayml.io/pool"
ACCELERATOR_LABEL = "k8s.amazonaws.com/accelerator"
"""By which the cluster autoscaler knows that a node's GPUs come some time after the node, and waits for them."""
GPU_TAINT = ("nvidia.com/gpu", "true")
SPOT_TAINT = ("rayml.io/spot", "true")
DISK_SHARE = 0.85
"""Of a node's disk, what pods may ask for: the rest is images, and what the kubelet keeps free."""


@dataclass(frozen=True)
class Pool:
    """One pool, as the cluster sees it."""

    name: str
    spec: PoolSpec
    taints: tuple[tuple[str, str], ...] = ()
    is_spot: bool = False

    @property
    def labels(self) -> dict[str, str]:
        """What its nodes are labelled with."""
        gpu = self.spec.instance.gpu
        accelerator = {ACCELERATOR_LABEL: f"nvidia-{gpu.split()[0].lower()}"} if gpu else {}
        return {POOL_LABEL: self.name, **accelerator}

    @property
    def pod_disk_gib(self) -> int:
        """What pods of a node may ask for together."""
        return int(self.spec.disk_gib * DISK_SHARE)


def pools_of(account: AccountSpec) -> list[Pool]:
    """The pools that an account has, those that are left out left out."""
    pools = account.pools
    found = [Pool("system", pools.system), Pool("cpu", pools.cpu)]
    if pools.gpu is not None:
        found.append(Pool("gpu", pools.gpu, (GPU_TAINT,)))
    if pools.gpu_spot is not None:
        found.append(Pool("gpu-spot", pools.gpu_spot, (GPU_TAINT, SPOT_TAINT), is_spot=True))
    return found
