"""How much energy a model takes, by the counters of the processor (RAPL, Documentation/power/powercap of Linux)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rayml.ml.onnx_session import open_session

ROOT = Path("/sys/class/powercap")
SECONDS = 1.0
"""The counters move once in a millisecond or so."""
MICRO = 1e-6


def measure_energy(onnx: Path, feature: str, records: NDArray[Any], *, root: Path = ROOT) -> dict[str, Any]:
    """`joules_per_1000` rows at one thread, of all that the processors took meanwhile; None with `why` where unknown.

    Args:
        records: raw records `[n, *shape]`, answered one by one, again and again for a second.
        root: the folder of the counters.
    """
    zones = readable_zones(root)
    if not zones:
        why = f"this machine reports no energy (no RAPL below {root})"
        if any(root.glob("intel-rapl*")):
            why = f"the energy counters below {root} may not be read by this user"
        return {"joules_per_1000": None, "why": why}
    session = open_session(onnx, threads=1, spinning=False)
    session.run(None, {feature: records[:1]})
    before = [counter(zone) for zone in zones]
    rows, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        row = rows % len(records)
        session.run(None, {feature: records[row : row + 1]})
        rows += 1
    joules = sum(spent(zone, start, counter(zone)) for zone, start in zip(zones, before, strict=True))
    return {"joules_per_1000": joules / rows * 1000, "why": None}


def readable_zones(root: Path) -> list[Path]:
    """One folder for each processor; `intel-rapl:0:1` and the like are parts of `intel-rapl:0`."""
    zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    return [zone for zone in zones if is_readable(zone / "energy_uj")]


def is_readable(path: Path) -> bool:
    try:
        path.read_text()
    except OSError:
        return False
    return True


def counter(zone: Path) -> int:
    """Microjoules since some moment."""
    return int((zone / "energy_uj").read_text())


def spent(zone: Path, before: int, after: int) -> float:
    """Joules between two readings of a counter that may have started anew in between."""
    if after < before:
        after += int((zone / "max_energy_range_uj").read_text())
    return (after - before) * MICRO
