"""How long the exported model takes for one record, on one thread of this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayml.ml.onnx_session import open_session

WARM_UP = 10
FEWEST, MOST = 50, 1000
LONGEST_S = 0.5


def measure_latency(path: Path, feature: str, record: NDArray[Any]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds, of 50 to 1,000 calls within half a second.

    Args:
        record: `[1, *shape]`, a raw record.
    """
    session = open_session(path, threads=1, spinning=False)
    for _ in range(WARM_UP):
        session.run(None, {feature: record})
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < FEWEST or (len(seconds) < MOST and time.perf_counter() - began < LONGEST_S):
        started = time.perf_counter()
        session.run(None, {feature: record})
        seconds.append(time.perf_counter() - started)
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return {"latency_p50_ms": float(p50), "latency_p95_ms": float(p95)}
