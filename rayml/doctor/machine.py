"""Memory, processors, shared memory and open files: what this machine or container lets a process have."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

from rayml.doctor.finding import Finding, ok, warning, wrong
from rayml.spec.kuberay import SHM_SHARE, SMALLEST_SHM
from rayml.spec.words import count

CGROUP = Path("/sys/fs/cgroup")
SHM = Path("/dev/shm")  # noqa: S108  a mount point that is only looked at
GIB, MIB = 2**30, 2**20
SMALLEST_MEMORY = 2 * GIB
"""Ray's processes and one worker that has imported torch take about this much."""
FEW_FILES, ENOUGH_FILES = 1024, 4096
"""Ray's processes fail early below the first, and ray/_private/worker.py raises its own limit where it may."""


def memory(root: Path = CGROUP) -> Finding:
    """RAM, or the part of it that the cgroup gives."""
    limit, machine = memory_limit(root), machine_memory()
    text = size(machine) if limit is None or limit >= machine else f"{size(limit)} of {size(machine)} (cgroup)"
    if allowed_memory(root) < SMALLEST_MEMORY:
        hint = "give the container more: docker run --memory=8g, or resources.limits.memory of the pod"
        return wrong("memory", f"{text}; Ray and one worker need {size(SMALLEST_MEMORY)}", hint)
    return ok("memory", text)


def cpus(root: Path = CGROUP) -> Finding:
    """Processors of this process, and what the cgroup lets it use of them."""
    seen, quota = len(os.sched_getaffinity(0)), cpu_limit(root)
    if quota is not None and quota < seen:
        found = f"{count(seen, 'CPU')} to be seen, and the cgroup gives the time of {quota:g}"
        hint = f"write `cpus: {max(1, int(quota))}` into the cluster file, or raise the container's CPU limit"
        return warning("cpus", found, hint)
    return ok("cpus", count(seen, "CPU"))


def shared_memory(folder: Path = SHM, root: Path = CGROUP) -> Finding:
    """Shared memory against the 30 % of memory that Ray's object store takes where nothing else is said."""
    try:
        total = shutil.disk_usage(folder).total
    except OSError as error:
        return wrong("shared memory", f"{folder}: {error.strerror}", "mount it: docker run --shm-size=8g")
    wanted = int(allowed_memory(root) * SHM_SHARE)
    found, more = f"{folder} has {size(total)}", f"docker run --shm-size={max(1, wanted // GIB)}g, or `shm:` in the "
    hint = f"give the container more: {more}cluster file; else Ray's objects go to the disk"
    if total < SMALLEST_SHM:
        return wrong("shared memory", f"{found}, and Ray needs {size(SMALLEST_SHM)} at least", hint)
    if total < wanted:
        return warning("shared memory", f"{found}, and Ray wants 30 % of memory, {size(wanted)}", hint)
    return ok("shared memory", found)


def open_files() -> Finding:
    """How many files a process may have open: `ulimit -n`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "no limit" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    found = f"{soft:,} at a time, {most} at most"
    may_raise = hard == resource.RLIM_INFINITY or hard >= ENOUGH_FILES
    hint = "ulimit -n 65536" if hard == resource.RLIM_INFINITY else f"ulimit -n {min(hard, 65536)}"
    if not may_raise:
        hint = "raise the hard limit: `* hard nofile 65536` in /etc/security/limits.conf, or "
        hint += "docker run --ulimit nofile=65536"
    if soft < FEW_FILES:
        return wrong("open files", f"{found}; Ray fails below {FEW_FILES:,}", hint)
    if soft < ENOUGH_FILES and not may_raise:
        return warning("open files", f"{found}; Ray asks for {ENOUGH_FILES:,}", hint)
    return ok("open files", found)


def machine_memory() -> int:
    """Bytes of RAM."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def allowed_memory(root: Path = CGROUP) -> int:
    """Bytes that this process may use."""
    return min(memory_limit(root) or machine_memory(), machine_memory())


def memory_limit(root: Path) -> int | None:
    """Bytes by cgroup v2 or v1 (kernel.org, admin-guide/cgroup-v2); None where nothing is said."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = read(root / name)
        if text.isdigit():
            return int(text)
    return None


def cpu_limit(root: Path) -> float | None:
    """Processors by cgroup v2 or v1; None where nothing is said."""
    words = read(root / "cpu.max").split() or [
        read(root / "cpu" / "cpu.cfs_quota_us"),
        read(root / "cpu" / "cpu.cfs_period_us"),
    ]
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None
    return int(words[0]) / int(words[1])


def read(path: Path) -> str:
    """A file's text; empty where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def size(number: int) -> str:
    """Bytes as people say them: `1.5 GiB`."""
    return f"{number / GIB:,.1f} GiB" if number >= GIB else f"{number / MIB:,.0f} MiB"
