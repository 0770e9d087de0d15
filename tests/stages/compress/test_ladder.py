"""What becomes of a rung, and which candidate wins: tables of rows in, verdicts out."""

from __future__ import annotations

import pytest

from rayml.errors import GateError
from rayml.stages.compress.ladder import choose, judge, misses, on_one_clock


def row(size=100_000, speedup=1.0, p50=1.0, drop=0.0, agreement=1.0, ram=10_000_000):
    return {
        "bytes": size,
        "accuracy": {"drop": drop},
        "agreement": {"value": agreement},
        "latency": {"1x1": {"p50_ms": p50, "p95_ms": 1.2 * p50, "ratio": speedup}},
        "ram": ram,
    }


BUDGET = {"metric_drop": 0.01, "agreement": None, "size": None, "p50_ms": None, "p95_ms": None, "ram": None}


@pytest.mark.parametrize(
    ("after", "status"),
    [
        (row(size=90_000), "kept"),
        (row(speedup=1.2), "kept"),
        (row(size=110_000, speedup=2.0), "kept"),
        (row(size=97_000, speedup=1.02), "rolled back"),
        (row(), "rolled back"),
        (row(size=150_000, speedup=0.5), "rolled back"),
    ],
)
def test_a_rung_that_brings_less_than_the_least_gain_is_rolled_back(after, status):
    verdict = judge(after, row(), masked=False, min_gain=0.05)
    assert verdict.status == status
    assert ("min_gain is 5 %" in verdict.why) == (status == "rolled back")


def test_gains_are_measured_from_the_rung_before_and_not_from_the_uncompressed_model():
    before = row(size=50_000, speedup=4.0)
    assert judge(row(size=49_000, speedup=4.1), before, masked=False, min_gain=0.05).status == "rolled back"
    verdict = judge(row(size=25_000, speedup=8.0), before, masked=False, min_gain=0.05)
    assert (verdict.status, verdict.smaller, verdict.faster) == ("kept", 0.5, 0.5)


def test_zeros_in_place_are_refused_however_small_the_file_is_said_to_be():
    verdict = judge(row(size=10_000, speedup=9.0), row(), masked=True, min_gain=0.05)
    assert verdict.status == "refused"
    assert "zeros in place" in verdict.why


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({"metric_drop": 0.01}, row(drop=0.02)),
        ({"agreement": 0.95}, row(agreement=0.94)),
        ({"size": 99_999}, row()),
        ({"p50_ms": 0.9}, row()),
        ({"p95_ms": 1.1}, row()),
        ({"ram": 9_999_999}, row()),
    ],
)
def test_every_bound_is_held_and_a_value_at_it_is_inside(change, lost):
    assert set(misses(lost, {**BUDGET, **change})) == set(change)
    exact = row(size=99_999, p50=0.9, drop=0.01, agreement=0.95, ram=9_999_999)
    assert misses(exact, {**BUDGET, **change}) == {}


def test_the_smallest_or_the_fastest_inside_the_budget_wins():
    candidates = [
        ("uncompressed", row()),
        ("small", row(size=10_000, speedup=2.0)),
        ("fast", row(size=20_000, speedup=6.0)),
        ("too far", row(size=1_000, speedup=20.0, drop=0.5)),
    ]
    assert choose(candidates, BUDGET, "size") == 1
    assert choose(candidates, BUDGET, "latency") == 2


def test_nothing_inside_ends_with_the_nearest_and_what_it_lacks():
    candidates = [("uncompressed", row()), ("1. prune", row(size=30_000, drop=0.012, agreement=0.97))]
    with pytest.raises(GateError) as caught:
        choose(candidates, {**BUDGET, "size": 29_000}, "size")
    assert "none of 2 candidates is inside the budget; the nearest is 1. prune" in caught.value.what
    assert "metric_drop 0.0120 instead of 0.0100, size 30.0 kB instead of 29.0 kB" in caught.value.what
    assert caught.value.exit_code == 3


def measured(p50, ratio=1.0):
    return {"p50_ms": p50, "p95_ms": 2 * p50, "p99_ms": 3 * p50, "rows_per_s": 1000 / p50, "ratio": ratio}


def test_milliseconds_of_rungs_are_those_of_one_machine_in_one_minute():
    original = {"latency": {"1x1": measured(0.8)}}
    slow_minute = {"latency": {"1x1": measured(0.4, ratio=4.0), "2x1": measured(0.3, ratio=2.0)}}
    latency = on_one_clock(slow_minute, original)["latency"]
    assert latency["1x1"]["p50_ms"] == pytest.approx(0.2)
    assert latency["1x1"]["p95_ms"] == pytest.approx(0.4)
    assert latency["1x1"]["rows_per_s"] == pytest.approx(5000)
    assert latency["2x1"]["p50_ms"] == pytest.approx(0.3), "without a measure of the uncompressed model it stays"
