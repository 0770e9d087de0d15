"""How long models take, one beside the other in one process, so that what slows the machine down slows them all."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayml.ml.onnx_session import first_line, open_session
from rayml.stages.compress.measuring import ask_process

MODULE = "rayml.stages.compress.measuring.latency"
THREADS = (1, 2)
BATCHES = (1, 32)
WARM_UP = 3
ROUNDS = 20
CALLS = 1000
"""Of the fastest model in one block."""
ENOUGH = 200
"""Of the slowest one: the 99th percentile of fewer calls is mostly the slowest call."""
BLOCK_S = 1.5
"""For one model in one block of threads and batch, where that is time for ROUNDS calls."""
LONGEST_BLOCK_S = 20.0
FEWEST = 5
"""Calls of a model that would take more than LONGEST_BLOCK_S for ROUNDS."""
TURN_S = 0.005
TURN_CALLS = 20
"""A model's turn in a round: so many calls or so long, so that a fast model's round is more than a clock's noise."""
RESAMPLES = 2000


def measure_latency(
    models: list[Path], feature: str, records: NDArray[Any], *, seed: int
) -> list[dict[str, dict[str, Any]]]:
    """For each model its latency by `threads x batch`: "1x1", "1x32", and "2x1", "2x32" where there are two CPUs.

    Each has `p50_ms`, `p95_ms`, `p99_ms`, `rows_per_s`, `calls`, `rounds`, and `ratio`, `ratio_low`, `ratio_high`: how
    many times as fast as the first model, as the median over rounds with the 95 % interval of its bootstrap.

    Args:
        models: the baseline first. A file that occurs twice is measured once, and as fast as itself.
        records: raw records `[n, *shape]`, repeated where they are fewer than a batch.

    Raises:
        StageError: a model cannot be loaded or run.
    """
    files = list(dict.fromkeys(path.resolve() for path in models))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.npy"
        np.save(path, np.resize(records, (max(BATCHES), *records.shape[1:])))
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        request = {
            "models": [str(file) for file in files],
            "feature": feature,
            "records": str(path),
            "threads": [threads for threads in THREADS if threads <= cpus],
            "batches": list(BATCHES),
            "seed": seed,
        }
        found = ask_process(MODULE, request, where=str(models[-1]))
    return [found[files.index(path.resolve())] for path in models]


def serve(request: dict[str, Any]) -> list[dict[str, dict[str, Any]]]:
    """What the process answers: for each model its blocks."""
    rng = np.random.default_rng(request["seed"])
    records = np.load(request["records"])
    found: list[dict[str, dict[str, Any]]] = [{} for _ in request["models"]]
    for threads in request["threads"]:
        # Idle threads of one session that wait actively would take a processor from the session whose turn is next.
        sessions = [open_session(Path(path), threads=threads, spinning=False) for path in request["models"]]
        for batch in request["batches"]:
            block = run_block(sessions, request["feature"], records[:batch], rng)
            for place, values in enumerate(summarize(block, batch, rng)):
                found[place][f"{threads}x{batch}"] = values
    return found


@dataclass
class Timed:
    """One model's calls in a block."""

    turn: int
    """Calls in each round."""
    rounds: list[list[float]] = field(default_factory=list)
    """Seconds of each call, by round."""

    @property
    def seconds(self) -> NDArray[np.float64]:
        return np.concatenate([np.asarray(each) for each in self.rounds])

    @property
    def medians(self) -> NDArray[np.float64]:
        """Of each round, in seconds."""
        return np.array([np.median(each) for each in self.rounds])


def run_block(sessions: list[Any], feature: str, records: NDArray[Any], rng: np.random.Generator) -> list[Timed]:
    """Rounds in which each model has one turn, in an order that is drawn anew."""
    block = [Timed(turn_of(session, feature, records)) for session in sessions]
    began, rounds = time.perf_counter(), 0
    while goes_on(rounds, time.perf_counter() - began, [timed.turn for timed in block]):
        for place in rng.permutation(len(sessions)):
            timed, session = block[place], sessions[place]
            if timed.turn > 1:
                # The other models' weights are in the cache, which is of our own making and no part of a short call.
                call(session, feature, records)
            timed.rounds.append([call(session, feature, records) for _ in range(timed.turn)])
        rounds += 1
    return block


def turn_of(session: Any, feature: str, records: NDArray[Any]) -> int:
    """Warms a model up, and says how many calls are a turn."""
    fastest = min(call(session, feature, records) for _ in range(WARM_UP))
    return int(np.clip(TURN_S / fastest, 1, TURN_CALLS))


def goes_on(rounds: int, passed_s: float, turns: list[int]) -> bool:
    """Whether a block has another round.

    Args:
        turns: calls of each model in a round.
    """
    if rounds < FEWEST:
        return True
    if rounds < ROUNDS:
        return passed_s < LONGEST_BLOCK_S * len(turns)
    has_all = rounds * max(turns) >= CALLS and rounds * min(turns) >= ENOUGH
    return not has_all and passed_s < BLOCK_S * len(turns)


def call(session: Any, feature: str, records: NDArray[Any]) -> float:
    """Seconds of one inference."""
    started = time.perf_counter()
    session.run(None, {feature: records})
    return time.perf_counter() - started


def summarize(block: list[Timed], batch: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The numbers of each model beside the first."""
    base = block[0].medians
    draws = rng.integers(len(base), size=(RESAMPLES, len(base)))
    rows = []
    for timed in block:
        seconds = timed.seconds
        p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1e3
        ratios = base / timed.medians
        low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
        rows.append(
            {
                "p50_ms": float(p50),
                "p95_ms": float(p95),
                "p99_ms": float(p99),
                "rows_per_s": float(batch * len(seconds) / seconds.sum()),
                "ratio": float(np.median(ratios)),
                "ratio_low": float(low),
                "ratio_high": float(high),
                "calls": len(seconds),
                "rounds": len(base),
            }
        )
    return rows


def main() -> None:
    try:
        answer = serve(json.load(sys.stdin))
    except Exception as error:  # whatever it is, its first line is the last one that this process writes
        sys.exit(first_line(error))
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
