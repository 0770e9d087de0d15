"""How much memory a worker has needed so far, what it keeps of it, and how much of a GPU it may take."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
HIGHEST = "VmHWM:"

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
KEPT_BYTES = 2**30
IN_HEAP_BYTES = 2**25
"""The most that glibc lets M_MMAP_THRESHOLD be. It gets there by itself, but not once the other threshold was set."""


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


def keep_freed_memory() -> None:
    """Let this process keep up to 1 GiB of what a step frees for the next one; without glibc it changes nothing.

    glibc gives the end of its heap back to Linux when 64 MiB of it are free, as they are after each backward pass, and
    the next step faults it in anew, page by page: 7,000 to 10,000 faults in each step of a ResNet-18 with 16 rows.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, IN_HEAP_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def limit_gpu_memory(fraction: float | None, device: torch.device) -> None:
    """Let torch take at most this share of the GPU; beyond it an allocation fails as if the GPU were full.

    Without a GPU there is nothing to limit: the same job file runs on a laptop.
    """
    if fraction is not None and device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(fraction, device)
