"""The row `autoscaled cost` of `rayml bench tune`: a sweep whose parallelism falls, on nodes that come and go.

Many short trials, then few long ones: as many nodes as the short ones deserve stand idle beside the long ones. What a
fixed number of nodes would take is first reckoned without any overhead; the best of these is then run.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayml.bench.harness import Contest, Goal, Lap, Row, compete
from rayml.bench.sweeps import list_schedule, ray_here, run_sleepers, same_lengths
from rayml.errors import StageError
from rayml.plan.plan import ClusterPlan, NodesPlan

NAME = "autoscaled cost"
MOST = 3
"""Nodes of one CPU. The head has none: whatever runs needs a node."""
IDLE_S = 3.0
SLOWER = 1.1
"""How much longer than the fastest static size one may take to be the best, and ours than the best."""
LENGTHS_S = (*(2.5,) * 30, 10.0, 75.0)
START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Took:
    """One sweep on one cluster."""

    done: list[float]
    """Lengths of the trials that were done."""
    wall_s: float
    node_s: float


def measure(folder: Path, say: Callable[[str], None]) -> Row:
    """The row, with what both sides took in its `alternative_is`."""
    size = best_static(LENGTHS_S, MOST)
    numbers = itertools.count()
    found: dict[str, Took] = {}

    def side(name: str, least: int, most: int) -> Callable[[], Lap]:
        def lap() -> Lap:
            found[name] = run_on(folder / f"{name}-{next(numbers)}", least, most)
            return Lap(found[name].node_s, proof=found[name].done)

        return lap

    contest = Contest(
        name=NAME,
        unit="node-s",
        better="less",
        ours=side("autoscaled", 0, MOST),
        alternative=side("static", size, size),
        alternative_is=f"{size} nodes, the best static size",
        check=same_lengths,
        goal=Goal(1 / 0.6, "ratio"),
    )
    return judged(compete(contest, 1, warm_up=0, say=say), found["autoscaled"].wall_s, found["static"].wall_s)


def judged(row: Row, ours_s: float, static_s: float) -> Row:
    """The row of one pair, which has no interval, with its verdict: cheap enough, and not too slow."""
    assert row.ratio is not None, "there was an alternative"
    met = row.ratio >= 1 / 0.6 and ours_s <= SLOWER * static_s
    words = f"{row.alternative_is}: {static_s:.0f} s, and ours {ours_s:.0f} s, {ours_s / static_s:.2f} of it"
    return dataclasses.replace(row, met=met, alternative_is=words)


def best_static(lengths_s: Sequence[float], most: int) -> int:
    """The number of nodes that costs the least among those that take at most 1.1 of the time of the fastest."""
    walls = {size: list_schedule(lengths_s, size) for size in range(1, most + 1)}
    fast = [size for size, wall in walls.items() if wall <= SLOWER * min(walls.values())]
    return min(fast, key=lambda size: size * walls[size])


def run_on(folder: Path, least: int, most: int) -> Took:
    """The sweep on a new cluster, from its first proposal to its end; the `least` nodes are there before it begins."""
    nodes = NodesPlan(min=least, max=most, cpus=1, gpus=0, idle_s=IDLE_S)
    with ray_here(folder / "run", ClusterPlan(cpus=0, gpus=0, object_store=2**28, nodes=nodes)):
        wait_for_nodes(least)
        started, clock = time.time(), time.perf_counter()
        done, sweep = run_sleepers(folder / "sweep", LENGTHS_S, most)
        wall_s = time.perf_counter() - clock
    changes = [(row["t"] - started, int(row["nodes"])) for row in sweep.nodes]
    return Took(done, wall_s, node_seconds(changes, wall_s))


def wait_for_nodes(least: int) -> None:
    """StageError where the nodes that are always there do not come."""
    import ray

    from rayml.stages.tune.meter import look_at_nodes

    deadline = time.monotonic() + START_TIMEOUT_S
    while look_at_nodes(ray.nodes).workers < least:
        if time.monotonic() > deadline:
            raise StageError(f"{least} nodes were not up after {START_TIMEOUT_S:.0f} s", where=f"bench tune, {NAME}")
        time.sleep(0.1)


def node_seconds(changes: Sequence[tuple[float, int]], end_s: float) -> float:
    """What was paid for.

    Args:
        changes: second of the sweep, and how many nodes there are from then on.
    """
    moments = [*changes, (end_s, 0)]
    return sum(nodes * (after - at) for (at, nodes), (after, _) in itertools.pairwise(moments))
