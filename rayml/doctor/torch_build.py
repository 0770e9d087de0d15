"""What torch was built for against what the driver can do, which GPUs it sees, and how fast two ranks add up.

torch is imported by one process of its own (rayml.doctor.torch_side); here its answers are judged.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayml.doctor.driver import Driver
from rayml.doctor.finding import Finding, ok, warning, wrong
from rayml.spec.words import count

TIMEOUT_S = 13.0
"""For the import and the all-reduce together; the import takes 2 to 4 s."""
DEATH_S = 1.0
SLOW_GPU_GB_PER_S = 3.0
"""Below what PCIe 3.0 with 16 lanes gives two GPUs through their host."""


@dataclass(frozen=True)
class TorchSide:
    """What the process said before it ended, or was ended."""

    build: dict[str, Any] | None
    all_reduce: dict[str, Any] | None
    fault: str = ""


def look() -> TorchSide:
    """Ask torch, for a bounded time."""
    with tempfile.TemporaryDirectory(prefix="rayml-doctor-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "rayml.doctor.torch_side", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, complaint = process.communicate(timeout=TIMEOUT_S)
            fault = complaint.strip().splitlines()[-1][:300] if process.returncode and complaint.strip() else ""
        except subprocess.TimeoutExpired:
            output, fault = last_words(process), f"no answer within {TIMEOUT_S:.0f} s"
    return read(output, fault)


def last_words(process: subprocess.Popen[str]) -> str:
    """End it, and what it has printed. One that waits inside the driver for a broken GPU does not die."""
    os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=DEATH_S)[0]
    except subprocess.TimeoutExpired as expired:
        said: bytes = expired.output or b""  # bytes for text as well
        return said.decode(errors="replace")


def read(output: str, fault: str = "") -> TorchSide:
    """The lines of JSON that the process printed; what else a library prints is passed over."""
    said: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith(('{"build": ', '{"all_reduce": ')):
            said.update(json.loads(line))
    return TorchSide(said.get("build"), said.get("all_reduce"), fault)


def build(side: TorchSide) -> Finding:
    """torch can be imported."""
    if side.build is None:
        hint = "python -c 'import torch' shows all of it; python -m pip install --require-hashes -r requirements.lock"
        return wrong("torch", f"it cannot be imported: {side.fault or 'it printed nothing'}", hint)
    made_for = f"built for CUDA {side.build['cuda']}" if side.build["cuda"] else "built for CPUs"
    return ok("torch", f"{side.build['torch']}, {made_for}")


def cuda(side: TorchSide, driver: Driver) -> Finding:
    """The driver can run the CUDA that torch was built for: the same major version or a newer one (CUDA's minor
    version compatibility, docs.nvidia.com/deploy/cuda-compatibility)."""
    built = (side.build or {}).get("cuda")
    if built is None:
        what = f"there is a driver for CUDA {driver.cuda}, and torch was built for CPUs"
        hint = "python -m pip install --force-reinstall --require-hashes -r requirements.lock, whose torch is for CUDA"
        return wrong("cuda", what, hint)
    mine, theirs = numbers(built), numbers(driver.cuda)
    if theirs[0] < mine[0]:
        what = f"torch was built for CUDA {built}, and driver {driver.version} runs CUDA up to {driver.cuda}"
        return wrong("cuda", what, f"update the driver to one for CUDA {mine[0]}, or install a torch for {driver.cuda}")
    if theirs < mine:
        what = (
            f"torch was built for CUDA {built}, the driver for {driver.cuda}: kernels that are compiled here may fail"
        )
        return warning("cuda", what, f"update the driver to one for CUDA {built}")
    return ok("cuda", f"torch was built for {built}, the driver runs up to {driver.cuda}")


def nccl(side: TorchSide) -> Finding:
    """The NCCL that is loaded is the one that torch was built with."""
    built, loaded = (side.build or {}).get("nccl"), (side.build or {}).get("nccl_loaded")
    if built is None:
        return ok("nccl", "torch was built without it: gloo is used")
    if loaded is None or loaded == built:
        return ok("nccl", f"{built}, the one that torch was built with")
    what = f"torch was built with NCCL {built}, and {loaded} is loaded"
    hint = "unset LD_PRELOAD and take other copies out of LD_LIBRARY_PATH: ldconfig -p | grep nccl"
    older = numbers(loaded) < numbers(built)
    return wrong("nccl", what, hint) if older else warning("nccl", what, hint)


def visibility(side: TorchSide, driver: Driver, environ: Mapping[str, str] | None = None) -> Finding:
    """torch sees the GPUs that the driver has."""
    listed = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    seen, there = (side.build or {}).get("gpus", 0), len(driver.gpus)
    text = f"torch sees {seen} of {count(there, 'GPU')}"
    if seen == there:
        return ok("visible gpus", text)
    if listed is None:
        hint = "python -c 'import torch; torch.cuda.init()' says why; in a container: --gpus all"
        return wrong("visible gpus", text, hint)
    named = [each for each in listed.split(",") if each.strip()]
    hint = "unset CUDA_VISIBLE_DEVICES, where all of them are meant"
    text = f"{text}: CUDA_VISIBLE_DEVICES={listed}"
    return warning("visible gpus", text, hint) if seen == len(named) and seen else wrong("visible gpus", text, hint)


def all_reduce(side: TorchSide) -> Finding:
    """Two ranks have added up a tensor, and how fast."""
    found = side.all_reduce
    if found is None or "error" in found:
        said = side.fault or "the process ended" if found is None else found["error"]
        backend = "" if found is None else f" over {found['backend']}"
        hint = "NCCL_DEBUG=INFO rayml doctor" if backend.endswith("nccl") else "see that 127.0.0.1 and /tmp can be used"
        return wrong("all-reduce", f"two ranks{backend} did not add up a tensor: {said}", hint)
    text = f"2 ranks over {found['backend']}, {found['mib']} MiB: {found['gb_per_s']:.1f} GB/s"
    if found["backend"] == "nccl" and found["gb_per_s"] < SLOW_GPU_GB_PER_S:
        hint = (
            "NCCL_DEBUG=INFO rayml doctor shows the way it takes; nvidia-smi topo -p2p r whether GPUs reach each other"
        )
        return warning("all-reduce", f"{text}, slower than PCIe 3.0", hint)
    return ok("all-reduce", text)


def numbers(version: str) -> tuple[int, ...]:
    """`13.0` as numbers that compare."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())
