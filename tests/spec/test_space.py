"""The search space: draws that are pure, ranges that are kept to, every configuration once."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayml.spec.space import build_space, ordered
from rayml.spec.tune import TuneSpec

SPACE = {
    "train.optimizer.momentum": {"uniform": [0.0, 0.9], "step": 0.3, "when": {"train.optimizer.kind": "sgd"}},
    "train.optimizer.kind": {"choice": ["sgd", "adamw", "lion"]},
    "model.width": {"integer": [8, 24], "step": 8},
    "train.optimizer.betas": {"grid": [[0.9, 0.99], [0.9, 0.999]], "when": {"train.optimizer.kind": ["adamw", "lion"]}},
}
CONTINUOUS = {
    "train.optimizer.lr": {"loguniform": [1e-4, 1e-1]},
    "model.dropout": {"uniform": [0.0, 0.5]},
    "model.width": {"log_integer": [4, 256]},
}


def space(written: dict, constraints: tuple[str, ...] = (), base: dict | None = None):
    return build_space(TuneSpec.model_validate({"space": written, "constraints": list(constraints)}), base or {})


def test_keys_come_after_those_that_they_depend_on():
    tune = TuneSpec.model_validate({"space": SPACE})
    order = ordered(tune)
    assert order.index("train.optimizer.kind") < order.index("train.optimizer.momentum")
    assert set(order) == set(SPACE)


def test_a_circle_is_named():
    tune = TuneSpec.model_validate(
        {
            "space": {
                "model.width": {"choice": [1], "when": {"model.depth": 2}},
                "model.depth": {"choice": [2], "when": {"model.width": 1}},
            }
        }
    )
    with pytest.raises(ValueError, match="circle"):
        ordered(tune)


def test_every_configuration_is_walked_once_and_counted():
    found = list(space(SPACE).walk())
    # sgd: 4 momenta; adamw and lion: 2 pairs of betas each; times 3 widths.
    assert len(found) == space(SPACE).size == 3 * (4 + 2 + 2)
    assert len({str(sorted(point.items(), key=str)) for point in found}) == len(found)
    assert all(("train.optimizer.momentum" in point) == (point["train.optimizer.kind"] == "sgd") for point in found)
    assert {point.get("train.optimizer.momentum") for point in found} == {None, 0.0, 0.3, 0.6, 0.9}
    assert space(CONTINUOUS).size is None


def test_a_draw_is_a_function_of_seed_and_number():
    one, other = space(CONTINUOUS), space(CONTINUOUS)
    draws = [one.draw(7, number) for number in range(20)]
    assert draws == [other.draw(7, number) for number in range(20)]
    assert draws[5] == one.draw(7, 5), "whatever was drawn before"
    assert one.draw(7, 0) != one.draw(8, 0)
    assert one.draw(7, 0) != one.draw(7, 0, again=1)


@given(st.integers(0, 10_000))
def test_draws_keep_to_their_ranges(number):
    for written in (SPACE, CONTINUOUS):
        found = space(written)
        point = found.draw(3, number)
        assert found.holds(point)


def test_a_logarithm_is_drawn_evenly():
    found = space(CONTINUOUS)
    points = [found.draw(1, number) for number in range(3_000)]
    tenths = Counter(math.floor(math.log10(point["train.optimizer.lr"])) for point in points)
    assert all(850 < tenths[power] < 1150 for power in (-4, -3, -2)), tenths
    small = sum(point["model.width"] < 32 for point in points)
    assert 1300 < small < 1700, "half of the octaves of 4 to 256 lie below 32"


def test_whole_numbers_at_the_ends_are_as_likely_as_the_others():
    found = space({"model.width": {"integer": [1, 4]}})
    counts = Counter(found.draw(5, number)["model.width"] for number in range(4_000))
    assert set(counts) == {1, 2, 3, 4}
    assert min(counts.values()) > 850


def test_constraints_are_kept_to_and_may_name_the_jobs_own_keys():
    found = space(CONTINUOUS, ("model.width * train.batch_size <= 1024",), {"train.batch_size": 64})
    assert all(found.draw(1, number)["model.width"] <= 16 for number in range(200))
    assert space(CONTINUOUS, ("model.width < 4",)).draw(1, 0) is None
    grid = space({"model.width": {"grid": [8, 16, 32]}}, ("model.width != 16",))
    assert [point["model.width"] for point in grid.grid()] == [8, 32]


def test_points_from_elsewhere_are_looked_at():
    found = space(SPACE)
    assert found.holds({"train.optimizer.kind": "sgd", "model.width": 16, "train.optimizer.momentum": 0.6})
    assert not found.holds({"train.optimizer.kind": "sgd", "model.width": 16}), "a key is missing"
    assert not found.holds({"train.optimizer.kind": "sgd", "model.width": 17, "train.optimizer.momentum": 0.6})
    assert not found.holds({"train.optimizer.kind": "sgd", "model.width": 16, "train.optimizer.momentum": 0.5})
    assert not found.holds({"model.height": 3})
    assert not space({"model.deep": {"choice": [1, 2]}}).holds({"model.deep": True}), "true is not 1"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"choice": [1], "uniform": [0, 1]}, "`choice` and `uniform` are written"),
        ({"when": {}}, "no range is written"),
        ({"uniform": [1, 1]}, "does not rise"),
        ({"integer": [5, 2]}, "does not rise"),
        ({"loguniform": [0.1, 1], "step": 0.1}, "step does not go with loguniform"),
        ({"integer": [1, 9], "step": 0.5}, "not whole"),
        ({"uniform": [0, 1], "step": 2}, "larger than the range"),
    ],
)
def test_a_range_that_is_none_is_refused(written, words):
    with pytest.raises(ValueError, match=words):
        TuneSpec.model_validate({"space": {"model.width": written}})
