"""What is spent, and when it is all that may be."""

from __future__ import annotations

import pytest

from rayml.stages.tune.ledger import Spent
from rayml.stages.tune.meter import Meter, Nodes, look_at_nodes

FREE = {"head": None, "node": None}
PRICED = {"head": 1.0, "node": 0.5}


def test_what_is_held_is_counted_as_time_passes():
    meter = Meter({}, PRICED, Spent(wall_s=10.0), now=100.0)
    meter.holding = {0: (2.0, 1.0), 1: (1.0, 0.0)}
    meter.nodes = Nodes(workers=3, cpus=4.0)
    meter.tick(100.0 + 36.0)
    assert meter.spent == Spent(
        wall_s=46.0,
        cpu_hours=pytest.approx(0.03),
        gpu_hours=pytest.approx(0.01),
        money=pytest.approx(0.01 * (1.0 + 3 * 0.5)),
    )
    meter.holding.pop(0)
    meter.nodes = Nodes(workers=0, cpus=1.0)
    meter.tick(100.0 + 72.0)
    assert meter.spent.cpu_hours == pytest.approx(0.04)
    assert meter.spent.money == pytest.approx(0.01 * 2.5 + 0.01)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"wall_s": 36.0}, "36 s of time"),
        ({"wall_s": 37.0}, None),
        ({"cpu_hours": 0.03}, "0.03 cpu hours"),
        ({"gpu_hours": 0.011}, None),
        ({"money": 0.025}, "0.025 of money"),
        ({"wall_s": None, "money": None}, None),
    ],
)
def test_the_first_limit_that_is_reached_ends_it(limits, said):
    meter = Meter(limits, PRICED, Spent(), now=0.0)
    meter.holding = {0: (3.0, 1.0)}
    meter.nodes = Nodes(workers=3, cpus=4.0)
    assert meter.exhausted() is None
    meter.tick(36.0)
    assert meter.exhausted() == said


def test_dead_nodes_and_the_head_are_told_apart():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 2.0, "node:__internal_head__": 1.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {"memory": 1.0}},
    ]
    assert look_at_nodes(lambda: nodes) == Nodes(workers=2, cpus=6.0)
