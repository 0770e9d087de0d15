"""What follows from a ramp and from a table of micro-batches, and how it is printed."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from rayml.errors import PlanError
from rayml.run.finder_show import plot, show_batch_range, show_lr_range
from rayml.run.finders import finder_settings
from rayml.run.suggest import suggest_batch, suggest_lr


def ramp(loss):
    """100 points from 1e-6 to 1 with `loss(log10 of the learning rate)`."""
    points = []
    for step in range(100):
        lr = 1e-6 * 1e6 ** (step / 99)
        points.append({"lr": lr, "loss": loss(math.log10(lr)), "smooth": loss(math.log10(lr))})
    return points


def falls_and_rises(exponent):
    """Steepest at 1e-3 (a logistic curve), least near 1e-1."""
    return 2.3 / (1 + math.exp(4 * (exponent + 3))) + 0.1 + 5 * max(0.0, exponent + 1) ** 2


def test_the_learning_rate_is_where_the_loss_falls_fastest():
    found = suggest_lr(ramp(falls_and_rises))
    assert math.log10(found["lr"]) == pytest.approx(-3, abs=0.1)
    assert math.log10(found["least"]) == pytest.approx(-1, abs=0.15)
    assert found["lr"] == float(f"{found['steepest']:.1e}")


@pytest.mark.parametrize(
    "points",
    [[], ramp(lambda _: 2.3), ramp(lambda exponent: 3 + exponent), ramp(falls_and_rises)[:6]],
    ids=["empty", "flat", "rising", "short"],
)
def test_a_loss_that_does_not_fall_gives_no_learning_rate(points):
    assert suggest_lr(points) is None


def table(*speeds):
    return [
        {"rows": 2**power, "samples_per_s": speed, "step_ms": 1.0, "memory": 2**20 * power}
        for power, speed in enumerate(speeds)
    ]


@pytest.mark.parametrize(
    ("speeds", "batch_size", "accumulation", "expected"),
    [
        # 64 rows over 2 workers: 32 at once are as good as anything.
        ((100, 200, 400, 800, 1600, 3000, 3050), 64, 1, {"knee": 32, "accumulation": 1, "rows": 32, "gain": 1.0}),
        # More rows at once are slower: caches end.
        ((100, 200, 400, 800, 500, 300, 200), 64, 1, {"knee": 8, "accumulation": 4, "rows": 8, "gain": 800 / 300}),
        # 32 rows were not measured, since memory ended at 16.
        ((100, 200, 400, 800, 1500), 64, 1, {"knee": 16, "accumulation": 2, "rows": 16, "gain": None}),
        # 7 rows of a worker divide into 1 and 7; neither is measured at 7.
        ((100, 200, 400), 14, 1, {"knee": 4, "accumulation": 7, "rows": 1, "gain": None}),
        # Alike: the fewest micro-batches.
        ((990, 1000, 1000, 1000), 16, 8, {"knee": 1, "accumulation": 1, "rows": 8, "gain": 1000 / 990}),
    ],
)
def test_the_same_batch_is_divided_into_the_fastest_micro_batches(speeds, batch_size, accumulation, expected):
    found = {"table": table(*speeds), "data": 2, "batch_size": batch_size, "accumulation": accumulation}
    assert suggest_batch(found) == pytest.approx(expected)


def test_no_division_is_suggested_where_none_was_measured():
    found = {"table": table(100, 200)[1:], "data": 2, "batch_size": 2, "accumulation": 1}
    assert suggest_batch(found) == {"knee": 2, "accumulation": None, "rows": None, "gain": None}


def printed(show, found):
    out = io.StringIO()
    show(Console(file=out, width=100), "jobs/größe.yaml", found)
    return out.getvalue()


def test_the_plot_is_a_connected_line_with_the_suggestion_below_it():
    points = ramp(falls_and_rises)
    lines = plot(points, 1e-3)
    dots = [line[10:] for line in lines[:-2]]
    assert all(any(row[column] != "\u2800" for row in dots) for column in range(64))
    assert len({len(line) for line in lines[:-1]}) == 1
    assert lines[-2].index("^") - 10 == pytest.approx(63 / 2, abs=1)
    assert lines[-1].split() == ["1.0e-06", "1.0e+00"]
    flat = plot(ramp(lambda _: 1.0), None)
    assert "^" not in flat[-2]


def test_the_line_to_type_is_printed():
    points = ramp(falls_and_rises)
    found = {"points": points, "ended": "the loss rose to 2.5", "diverged": True, "batch_size": 64}
    text = printed(show_lr_range, {**found, "suggestion": suggest_lr(points)})
    assert "rayml run jobs/größe.yaml --set train.optimizer.lr=0.001" in text
    assert "diverges at 1" in text
    assert "does not fall" in printed(show_lr_range, {**found, "suggestion": None})

    found = {"table": table(100, 200, 400, 800, 500, 300), "data": 2, "batch_size": 64, "accumulation": 1, "ended": "x"}
    text = printed(show_batch_range, {**found, "suggestion": suggest_batch(found)})
    assert "rayml run jobs/größe.yaml --set train.accumulation=4" in text
    assert "64 = 2 x 4 x 8 rows: faster, 2.67x" in text


def test_a_ramp_that_does_not_rise_is_refused():
    with pytest.raises(PlanError, match=r"from 1 to 0\.1 does not rise"):
        finder_settings("lr_range", 1.0, 0.1, None)
    assert finder_settings("lr_range", 1e-6, 1.0, None)["steps"] == 100
    assert finder_settings("batch_range", 1e-6, 1.0, 3) == {"kind": "batch_range", "steps": 3, "memory_share": 0.8}
