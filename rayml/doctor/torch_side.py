"""What only torch can say, in a process of its own: `python -m rayml.doctor.torch_side FOLDER`.

It imports torch once, prints what its build is, and forks two ranks that add a tensor up. CUDA is not touched before
the fork. Each answer is one line of JSON on standard output, so that what came before a hang or a crash is kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

RANKS = 2
MIB = 2**20
CPU_BYTES, GPU_BYTES = 32 * MIB, 256 * MIB
ROUNDS = 5
TIMEOUT_S = 8.0


def main(folder: str) -> int:
    """Print the build, then the all-reduce."""
    from rayml.process import die_with_parent

    die_with_parent()
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # counts GPUs without a CUDA context, which no fork survives
    import torch

    found = build(torch)
    say({"build": found})
    say({"all_reduce": all_reduce(torch, Path(folder), on_gpus=found["gpus"] >= RANKS)})
    return 0


def build(torch: Any) -> dict[str, Any]:
    """Versions of torch's build, and what it sees."""
    compiled = torch.cuda.nccl.version() if torch.version.cuda and torch.distributed.is_nccl_available() else None
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": None if compiled is None else ".".join(map(str, compiled)),
        "nccl_loaded": None if compiled is None else loaded_nccl(),
        "gpus": torch.cuda.device_count(),
    }


def loaded_nccl() -> str | None:
    """The NCCL library that this process really has, which LD_LIBRARY_PATH or LD_PRELOAD may have changed."""
    number = ctypes.c_int()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libnccl.so.2").ncclGetVersion(ctypes.byref(number))
    return nccl_words(number.value) if number.value else None


def nccl_words(number: int) -> str:
    """`2.30.7` of NCCL's own 23007 (NCCL_VERSION in nccl.h)."""
    return f"{number // 10000}.{number % 10000 // 100}.{number % 100}"


def all_reduce(torch: Any, folder: Path, on_gpus: bool) -> dict[str, Any]:
    """Two ranks add up a tensor; GB/s of the bus, as nccl-tests counts it (2 (n - 1) / n of the bytes)."""
    backend = "nccl" if on_gpus else "gloo"
    answer = folder / "answer.json"
    children = [fork_rank(torch, rank, folder, backend, answer) for rank in range(RANKS)]
    failed = [status for child in children if (status := os.waitpid(child, 0)[1])]
    if failed or not answer.exists():
        said = (folder / "fault").read_text().strip() if (folder / "fault").exists() else "a rank died"
        return {"backend": backend, "error": said}
    return {"backend": backend, **json.loads(answer.read_text())}


def fork_rank(torch: Any, rank: int, folder: Path, backend: str, answer: Path) -> int:
    """Start a rank; its process."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        from rayml.process import die_with_parent

        die_with_parent()
        found = run_rank(torch, rank, folder, backend)
        if rank == 0:
            answer.write_text(json.dumps(found))
        status = 0
    except BaseException as error:
        (folder / "fault").write_text(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}")
    finally:
        os._exit(status)


def run_rank(torch: Any, rank: int, folder: Path, backend: str) -> dict[str, Any]:
    """One rank's part: the sum has to be right, and the time is the fastest of some rounds."""
    from datetime import timedelta

    distributed = torch.distributed
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    distributed.init_process_group(
        backend,
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=TIMEOUT_S),
        **({"device_id": device} if backend == "nccl" else {}),
    )
    size = GPU_BYTES if backend == "nccl" else CPU_BYTES
    fastest = float("inf")
    for _ in range(ROUNDS):
        tensor = torch.full((size // 4,), float(rank + 1), device=device)
        fastest = min(fastest, timed(torch, tensor))
        assert bool((tensor == sum(range(1, RANKS + 1))).all()), "the sum of an all-reduce is not right"
    distributed.destroy_process_group()
    return {"mib": size // MIB, "gb_per_s": 2 * (RANKS - 1) / RANKS * size / fastest / 1e9}


def timed(torch: Any, tensor: Any) -> float:
    """Seconds of one all-reduce in place."""
    torch.distributed.barrier()
    start = time.perf_counter()
    torch.distributed.all_reduce(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def say(document: dict[str, Any]) -> None:
    """One answer."""
    sys.stdout.write(f"{json.dumps(document)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
