"""How much memory a worker has needed so far, and how much of a GPU it may take."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
HIGHEST = "VmHWM:"


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peaks of this process in bytes: `host` (resident), and on a GPU `gpu_tensors` and `gpu_reserved`."""
    peaks = {"host": peak_resident()}
    if device.type == "cuda":
        stats = torch.cuda.memory_stats(device)
        peaks["gpu_tensors"] = stats["allocated_bytes.all.peak"]
        peaks["gpu_reserved"] = stats["reserved_bytes.all.peak"]
    return peaks


def peak_resident() -> int:
    """The most bytes of RAM that this process held at a time."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(HIGHEST))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def limit_gpu_memory(fraction: float | None, device: torch.device) -> None:
    """Let torch take at most this share of the GPU; beyond it an allocation fails as if the GPU were full.

    Without a GPU there is nothing to limit: the same job file runs on a laptop.
    """
    if fraction is not None and device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(fraction, device)
