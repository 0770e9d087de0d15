"""How much memory is left for a worker."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
import torch.distributed as dist

MEMINFO = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
"""Where a container sees its own limit (cgroup v2)."""


def memory_budget(share: float, device: torch.device) -> float:
    """Bytes that one worker may take: of a CPU's memory its part of that share; a GPU says itself when it is full."""
    if device.type == "cuda":
        return math.inf
    workers = dist.get_world_size() if dist.is_initialized() else 1
    return share * min(free_on_machine(), free_in_container()) / workers


def free_on_machine() -> float:
    """What can be taken without swapping; half of the RAM where the system does not say."""
    if not MEMINFO.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def free_in_container() -> float:
    """What the container's limit leaves; infinite without one."""
    try:
        limit, used = ((GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return math.inf
    return math.inf if limit == "max" else int(limit) - int(used)
