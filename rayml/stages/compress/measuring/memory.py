"""How much memory a model takes: the peak of a process that loads it and answers, above that of its imports."""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayml.ml.onnx_session import first_line, open_session
from rayml.stages.compress.measuring import ask_process

MODULE = "rayml.stages.compress.measuring.memory"
PROCESSES = 3
"""Whose median counts: pages that the allocator touches differ by some 100 kB from process to process."""
SINGLE = 20
BATCH = 32
RESET_PEAK = "5"
"""Written to clear_refs it sets VmHWM to the present size (proc(5), since Linux 4.0)."""


def measure_memory(onnx: Path, feature: str, records: NDArray[Any]) -> int:
    """Bytes, for 20 rows one by one and a batch of 32, on one thread.

    Args:
        records: raw records `[n, *shape]`, repeated where they are fewer than 32.

    Raises:
        StageError: the model cannot be loaded or run.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.npy"
        np.save(path, np.resize(records, (BATCH, *records.shape[1:])))
        request = {"model": str(onnx.resolve()), "feature": feature, "records": str(path)}
        found = [int(ask_process(MODULE, request, where=str(onnx))) for _ in range(PROCESSES)]
    return int(statistics.median(found))


def serve(request: dict[str, Any]) -> int:
    """What the process answers: bytes of its peak above that of the imports and the records."""
    import onnxruntime  # noqa: F401 (its size is no part of the model's)

    records = np.load(request["records"])
    before = reset_peak()
    session = open_session(Path(request["model"]), threads=1, spinning=False)
    for row in range(SINGLE):
        session.run(None, {request["feature"]: records[row : row + 1]})
    session.run(None, {request["feature"]: records})
    return max(0, peak() - before)


def reset_peak() -> int:
    """Bytes of the peak from here on: the present size, or the peak so far where the kernel cannot reset it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    return peak()


def peak() -> int:
    """Bytes of the largest resident set so far."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def main() -> None:
    try:
        answer = serve(json.load(sys.stdin))
    except Exception as error:  # whatever it is, its first line is the last one that this process writes
        sys.exit(first_line(error))
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
