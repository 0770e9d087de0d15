"""Which nodes lose most by quantization, measured one by one, and which go back to float."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayml.ml.onnx_session import open_session

ENOUGH = 0.99
"""Share of equal answers with which nothing is measured node by node."""
WANTED = 0.995
PATIENCE = 3
"""Nodes put back without any gain before it ends."""

Write = Callable[[Path, tuple[str, ...]], None]


class Judge:
    """Holds files against the float model on the same rows."""

    def __init__(self, parent: Path, feature: str, records: NDArray[Any], threads: int) -> None:
        self.feature, self.records, self.threads = feature, records, threads
        self.expected = self.answers(parent)

    def answers(self, path: Path) -> NDArray[np.float32]:
        """Probabilities `[rows, classes]`."""
        session = open_session(path, threads=self.threads)
        parts = [
            session.run(["probabilities"], {self.feature: self.records[start : start + 64]})[0]
            for start in range(0, len(self.records), 64)
        ]
        return np.concatenate(parts)

    def __call__(self, path: Path) -> tuple[float, float]:
        """Share of equal answers, and the mean absolute difference of the probabilities."""
        found = self.answers(path)
        same = (found.argmax(axis=1) == self.expected.argmax(axis=1)) & np.isfinite(found).all(axis=1)
        return float(same.mean()), float(np.abs(found - self.expected).mean())


def restore(
    write: Write,
    path: Path,
    heavy: list[str],
    nodes: tuple[str, ...],
    judge: Judge,
    note: Callable[[str], None],
) -> dict[str, float | None]:
    """Quantize all; where answers change, put the worst nodes back. Returns the error of each node in float."""
    write(path, ())
    best = judge(path)
    if best[0] >= ENOUGH:
        return {}
    errors = alone(write, heavy, nodes, judge)
    kept: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    with tempfile.TemporaryDirectory() as folder:
        attempt = Path(folder) / "attempt.onnx"
        for name in sorted(errors, key=lambda each: -errors[each]):
            if best[0] >= WANTED or len(tried) - len(kept) >= PATIENCE:
                break
            tried = (*tried, name)
            write(attempt, tried)
            found = judge(attempt)
            if found[0] > best[0]:
                best, kept = found, tried
    write(path, kept)
    note(f"{len(kept)} of {len(heavy)} layers stay float; {best[0]:.1%} of the answers agree")
    return {name: errors[name] for name in kept}


def alone(write: Write, heavy: list[str], nodes: tuple[str, ...], judge: Judge) -> dict[str, float]:
    """Mean difference of the probabilities where only that one node is quantized."""
    errors = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in heavy:
            attempt = Path(folder) / "alone.onnx"
            write(attempt, tuple(each for each in nodes if each != name))
            errors[name] = judge(attempt)[1]
    return errors
