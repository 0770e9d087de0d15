"""Gates: a bound that is not met, or cannot be judged, ends the run with exit code 3."""

from __future__ import annotations

import math

import pytest

from rayml.errors import GateError
from rayml.plan.plan import Resources, Step
from rayml.run import gates


def step(bounds):
    return Step(
        name="evaluate", config={}, policy={"gates": bounds}, inputs={}, code="c", key="k", resources=Resources()
    )


@pytest.mark.parametrize(
    ("value", "bound", "passed"),
    [
        (0.95, ">= 0.95", True),
        (0.9499, ">= 0.95", False),
        (0.95, "> 0.95", False),
        (1e-5, "<= 1e-4", True),
        (1e-3, "<= 1e-4", False),
        (0.0, "<0.5", True),
        (math.inf, "<= 1e-4", False),
        (math.nan, ">= 0", False),
        (math.nan, "<= 0", False),
    ],
)
def test_one_gate(value, bound, passed):
    assert gates.check("evaluate", "accuracy", value, bound).passed is passed


def test_a_missing_metric_does_not_pass():
    (verdict,) = gates.judge(step({"accuracy": ">= 0"}), {})
    assert not verdict.passed


def test_no_gate_no_verdict():
    assert gates.judge(step({}), {"accuracy": 0.1}) == []


def test_the_error_names_value_bound_and_where_the_work_is(tmp_path):
    from contract.store import manifest, write

    from rayml.artifacts.store import LocalStore

    store = LocalStore(tmp_path)
    artifact = store.commit(
        write(store, "a" * 64), manifest("a" * 64, facts={"worst": {"sample_id": 17, "difference": 0.25}})
    )
    verdicts = gates.judge(step({"accuracy": ">= 0.95", "f1_macro": ">= 0.1"}), {"accuracy": 0.5, "f1_macro": 0.4})
    with pytest.raises(GateError) as caught:
        gates.refuse(verdicts, artifact)
    text = str(caught.value)
    assert "accuracy is 0.5" in text
    assert ">= 0.95" in text
    assert "sample_id 17" in text
    assert str(artifact.path) in text
    assert "f1_macro" not in text
    assert caught.value.exit_code == 3
