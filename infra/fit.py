"""Which pool the pods of a cluster file end up in, how many a node holds, and what one costs per hour."""

from __future__ import annotations

from dataclasses import dataclass

from infra.pools import SPOT_TAINT, Pool
from rayml.spec.kuberay import GroupSpec

GIB = 2**30
KERNEL_SHARE = 0.03
"""Of a machine's memory, what firmware and kernel keep."""
RESERVED_MEMORY_GIB = 3.5
"""What kubelet keeps (255 MiB, and 11 MiB for each of up to 250 pods), what evicts (100 MiB), and daemons."""
RESERVED_CPUS = 1
"""Kubelet's share and daemons', rounded up."""


@dataclass(frozen=True)
class Place:
    """A group's pool."""

    group: str
    pool: Pool
    pods_per_node: int

    def price_per_hour(self, node_price: float) -> float:
        """Of one pod, whose neighbours pay the rest of the node."""
        return node_price / self.pods_per_node


def place(group: GroupSpec, pools: list[Pool]) -> Place | None:
    """The pool that its pods may stand on and that a node of holds at least one. Spot ones first, where it may."""
    fitting = [pool for pool in pools if is_let_in(group, pool) and pods_per_node(group, pool)]
    if not fitting:
        return None
    best = min(
        fitting, key=lambda pool: (pool.is_spot != group.spot, pool.name == "system", -pods_per_node(group, pool))
    )
    return Place(group.name, best, pods_per_node(group, best))


def is_let_in(group: GroupSpec, pool: Pool) -> bool:
    """Whether selector and tolerations let its pods onto the pool's nodes, as the scheduler would decide."""
    if any(pool.labels.get(key) != value for key, value in group.node_selector.items()):
        return False
    tolerated = {(each.key, each.value) for each in group.tolerations} | ({SPOT_TAINT} if group.spot else set())
    return all((key, value) in tolerated or (key, None) in tolerated for key, value in pool.taints)


def pods_per_node(group: GroupSpec, pool: Pool) -> int:
    """How many of its pods one node holds."""
    machine = pool.spec.instance
    memory_gib = machine.memory_gib * (1 - KERNEL_SHARE) - RESERVED_MEMORY_GIB
    counts = [
        (machine.vcpus - RESERVED_CPUS) // group.cpus,
        int(memory_gib * GIB // group.memory),
        int(pool.pod_disk_gib * GIB // group.disk),
    ]
    if group.gpus:
        counts.append(machine.gpus // group.gpus)
    return max(0, min(counts))
