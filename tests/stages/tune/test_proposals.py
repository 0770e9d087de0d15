"""What is tried next: known points, new ones only, and searches that a crash does not change."""

from __future__ import annotations

import pytest
from optuna.distributions import IntDistribution

from rayml.plan.tuning import dump
from rayml.spec.space import build_space
from rayml.spec.tune import TuneSpec
from rayml.stages.tune.optuna_search import distribution, listed
from rayml.stages.tune.proposals import Proposal, Proposals, search_of

SPACE = {
    "train.optimizer.kind": {"choice": ["adamw", "sgd"]},
    "train.optimizer.lr": {"loguniform": [1e-4, 1.0]},
    "train.optimizer.momentum": {"uniform": [0.0, 0.9], "when": {"train.optimizer.kind": "sgd"}},
    "model.width": {"integer": [8, 64], "step": 8},
    "model": {"choice": [{"kind": "mlp"}, {"kind": "mlp", "hidden": [8]}]},
}
NUMBERS = {key: SPACE[key] for key in ("train.optimizer.lr", "model.width")}


def proposals(written: dict, search: dict, goals=("max",), known=(), refuses=lambda point: None, constraints=()):
    tune = TuneSpec.model_validate({"space": written, "search": search, "constraints": list(constraints)})
    space = build_space(tune, {})
    return Proposals(space, list(known), search_of(dump(tune.search), space, 7, list(goals)), refuses)


def score(point: dict) -> float:
    """Best at a width of 40 and a learning rate of 0.01."""
    import math

    return -abs(point.get("model.width", 40) - 40) / 56 - abs(math.log10(point["train.optimizer.lr"]) + 2) / 4


def go(found: Proposals, numbers: range, history: list, several: bool = False) -> list:
    """Propose and learn, one trial after the other; `history` is what a ledger would keep."""
    points = []
    for number in numbers:
        proposal = found.next(number)
        found.accept(number, proposal)
        values = [score(proposal.point), float(number % 3)] if several else [score(proposal.point)]
        found.search.learn(number, values, [], complete=True)
        history.append((number, proposal, values))
        points.append(proposal.point)
    return points


def replay(found: Proposals, history: list) -> None:
    for number, proposal, values in history:
        found.accept(number, proposal)
        found.search.learn(number, values, [], complete=True)


SEARCHES = [
    ({"kind": "random"}, SPACE, ("max",)),
    ({"kind": "sobol"}, SPACE, ("max",)),
    ({"kind": "tpe", "startup": 4}, SPACE, ("max",)),
    ({"kind": "tpe", "startup": 4}, SPACE, ("max", "min")),
    ({"kind": "gp", "startup": 4}, NUMBERS, ("max",)),
    ({"kind": "cma_es", "startup": 2}, NUMBERS, ("max",)),
    ({"kind": "nsga2", "population": 4}, SPACE, ("max", "min")),
    ({"kind": "nsga3", "population": 4}, SPACE, ("max", "min")),
]


@pytest.mark.parametrize(
    ("search", "space", "goals"), SEARCHES, ids=[f"{row[0]['kind']}-{len(row[2])}" for row in SEARCHES]
)
def test_a_search_that_is_made_again_from_the_ledger_proposes_the_same(search, space, goals):
    history: list = []
    whole = go(proposals(space, search, goals), range(12), history, several=len(goals) > 1)
    assert all(proposals(space, search, goals).space.holds(point) for point in whole)
    again = proposals(space, search, goals)
    replay(again, history[:7])
    assert go(again, range(7, 12), [], several=len(goals) > 1) == whole[7:]


@pytest.mark.parametrize("kind", ["tpe", "gp", "cma_es"])
def test_a_search_learns(kind):
    search = {"kind": kind, **({"startup": 6} if kind != "cma_es" else {})}
    points = go(proposals(NUMBERS, search), range(40), [])
    first, last = (sum(map(score, part)) / 10 for part in (points[:10], points[-10:]))
    assert last > first + 0.1, f"{kind} got from {first:.2f} to {last:.2f}"


def test_tpe_goes_on_proposing_where_what_it_likes_best_was_tried():
    """Where it says the same again and again, what is left is a draw that knows of nothing."""
    space = {f"train.{name}": {"choice": ["1", "2", "3", "4"]} for name in ("epochs", "accumulation", "batch_size")}
    found = proposals(space, {"kind": "tpe", "startup": 8})
    origins = []
    for number in range(32):
        proposal = found.next(number)
        found.accept(number, proposal)
        found.search.learn(number, [float(sum(map(int, proposal.point.values())))], [], complete=True)
        origins.append(proposal.origin)
    assert set(origins) == {"search"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.1, 0.001, 0.01], (0.001, 0.01, 0.1)), ([True, False], (True, False)), ([[8], [4]], ([8], [4])), ([2], (2,))],
)
def test_numbers_to_choose_from_have_an_order_and_come_back_as_they_were(values, expected):
    found = proposals({"model.hidden": {"choice": values}, **NUMBERS}, {"kind": "tpe", "startup": 1})
    dimension = next(each for each in found.space.dimensions if each.path == "model.hidden")
    assert listed(dimension) == expected
    assert isinstance(distribution(dimension), IntDistribution) is (values[0] is not True and values != [[8], [4]])
    tried = [point["model.hidden"] for point in go(found, range(24), [])]
    assert {str(value) for value in tried} == {str(value) for value in values}
    for value in values:
        assert listed(dimension)[found.search.written("model.hidden", value)] == value


def test_earlier_sweeps_count_as_if_they_had_been_found_here():
    cold, warm = (proposals(NUMBERS, {"kind": "tpe", "startup": 1}) for _ in range(2))
    for number in range(30):
        point = warm.space.draw(99, number)
        warm.search.add(point, [score(point)])
    first = [sum(map(score, go(found, range(12), []))) for found in (cold, warm)]
    assert first[1] > first[0]


def test_known_points_come_first_and_none_comes_twice():
    known = [{"model.width": 16}, {"model.width": 48}]
    found = proposals({"model.width": {"integer": [8, 64], "step": 8}}, {"kind": "random"}, known=known)
    points = [found.next(0)]
    found.accept(0, points[0])
    assert [points[0].origin, points[0].point] == ["known", known[0]]
    seen = [points[0].point]
    for number in range(1, 8):
        proposal = found.next(number)
        found.accept(number, proposal)
        seen.append(proposal.point)
    assert seen[1] == known[1]
    assert sorted(point["model.width"] for point in seen) == [8, 16, 24, 32, 40, 48, 56, 64]
    assert found.next(8) is None, "all eight were tried"


def test_a_grid_is_tried_in_order_and_goes_on_after_a_crash():
    space = {"model.width": {"grid": [8, 16]}, "model.depth": {"grid": [1, 2]}}
    found = proposals(space, {"kind": "grid"})
    points = []
    while proposal := found.next(len(points)):
        found.accept(len(points), proposal)
        points.append(proposal.point)
    assert points == [{"model.width": width, "model.depth": depth} for width in (8, 16) for depth in (1, 2)]
    again = proposals(space, {"kind": "grid"})
    for number in range(3):
        again.accept(number, Proposal(points[number], "grid"))
    assert again.next(3).point == points[3]


def test_constraints_and_the_jobs_rules_are_kept_to_by_every_search():
    for search, space, goals in SEARCHES:
        found = proposals(
            space,
            search,
            goals,
            refuses=lambda point: "too small" if point["train.optimizer.lr"] < 1e-3 else None,
            constraints=["model.width <= 32"],
        )
        points = go(found, range(10), [], several=len(goals) > 1)
        assert all(point["model.width"] <= 32 and point["train.optimizer.lr"] >= 1e-3 for point in points), search
    assert set(found.refused) <= {"too small"}


def test_a_space_whose_every_configuration_is_refused_ends():
    found = proposals({"model.width": {"choice": [8, 16]}}, {"kind": "random"}, refuses=lambda point: "never")
    assert found.next(0) is None
    assert set(found.refused) == {"never"}
