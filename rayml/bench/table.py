"""The benches by name, and what all of them share: machine, command line, document."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from rayml.bench.harness import document
from rayml.bench.machine import describe_machine
from rayml.errors import RaymlError

BENCHES = {"startup": "rayml.bench.startup", "train": "rayml.bench.train"}
"""Name to the module whose `run(mode, say)` measures the rows."""
MODES = ("quick", "full")


class NoSuchBench(RaymlError):
    """A bench was named that is not here."""

    exit_code = 2


def run_bench(name: str, mode: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every row of a bench; the document that `rayml bench NAME --json` prints."""
    assert mode in MODES, f"{mode} is no mode"
    if name not in BENCHES:
        raise NoSuchBench(f"no bench {name!r}", hint=f"what fits: {', '.join(BENCHES)}")
    rows = import_module(BENCHES[name]).run(mode, say)
    return document(name, mode, describe_machine(), f"rayml bench {name} --{mode}", rows)
