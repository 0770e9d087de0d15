"""What a plan costs, from the prices of the cluster file."""

from __future__ import annotations

import pytest

from rayml.plan.costs import costs_of
from rayml.plan.plan import ClusterPlan, NodesPlan


def cluster(hour: float | None = None, month: float | None = None, node: float | None = None) -> ClusterPlan:
    nodes = None if node is None else NodesPlan(min=0, max=3, cpus=1, gpus=0, idle_s=1, price_per_hour=node)
    return ClusterPlan(cpus=1, gpus=0, object_store=0, price_per_hour=hour, price_per_month=month, nodes=nodes)


@pytest.mark.parametrize(
    ("found", "seconds", "words"),
    [
        (cluster(), 60.0, ""),
        (cluster(hour=2.0), None, "costs up to 2.00 an hour while it runs"),
        (cluster(hour=2.0), 1800.0, "costs up to 2.00 an hour while it runs (about 1.00 this time)"),
        (cluster(hour=1.0, node=0.5), 3600.0, "costs up to 2.50 an hour while it runs (about 2.50 this time)"),
        (cluster(hour=2.0, month=1513.14), None,
         "costs up to 2.00 an hour while it runs; 1,513.14 a month for what stands"),
        (cluster(month=513.14), 60.0, "costs 513.14 a month for what stands"),
    ],
)  # fmt: skip
def test_costs_in_words(found, seconds, words):
    assert costs_of(found, seconds).sentence() == words
