"""The other side of `rayml bench tune`: Ray Tune's Tuner as it comes, on trials that sleep."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

BARE_CALLS_S = 2.0


def run_plain_tuner(folder: Path, lengths_s: Sequence[float]) -> list[float]:
    """Run a trial of one CPU for each length, in this order, on the Ray that is there; the lengths that came back."""
    from ray import tune

    tuner = tune.Tuner(
        sleep,
        param_space={"seconds": tune.grid_search(list(lengths_s))},
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    with redirect_stdout(io.StringIO()):  # it draws a table there, in which `--json` has a document
        results = tuner.fit()
    found = (results[place].metrics for place in range(len(results)))
    return sorted(metrics["slept_s"] for metrics in found if metrics is not None)


def sleep(config: dict[str, Any]) -> dict[str, float]:
    """One trial."""
    time.sleep(config["seconds"])
    return {"val/loss": 0.5, "slept_s": config["seconds"]}


def bare_calls_per_s(actors: int) -> float:
    """Calls per second of Ray actors that do nothing, one call at a time each: what a trial is made of at least."""
    import ray

    @ray.remote(num_cpus=1)
    class Idle:
        def call(self) -> None:
            pass

    idle = [Idle.remote() for _ in range(actors)]  # type: ignore[attr-defined]
    ray.get([actor.call.remote() for actor in idle])
    pending = {actor.call.remote(): actor for actor in idle}
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < BARE_CALLS_S:
        done, _ = ray.wait(list(pending))
        actor = pending.pop(done[0])
        pending[actor.call.remote()] = actor
        calls += 1
    seconds = time.perf_counter() - started
    for actor in idle:
        ray.kill(actor)
    return calls / seconds
