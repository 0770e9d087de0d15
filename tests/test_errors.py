"""Errors: they travel through pickle and JSON with everything they say."""

from __future__ import annotations

import pickle

import pytest

from rayml.errors import (
    BackendError,
    GateError,
    PlanError,
    Problem,
    RaymlError,
    SpecError,
    StageError,
    WorkerLost,
    error_from_json,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(RaymlError, 1), (PlanError, 2), (GateError, 3), (StageError, 4), (WorkerLost, 4), (BackendError, 5)],
)
def test_round_trips(kind, code):
    error = kind("Größe 4 passt nicht", where="data, row 17", hint="type --set x=3")
    for copy in (pickle.loads(pickle.dumps(error)), error_from_json(error.to_json())):
        assert type(copy) is kind
        assert str(copy) == str(error) == "data, row 17: Größe 4 passt nicht\n  type --set x=3"
        assert copy.exit_code == code


def test_a_spec_error_keeps_every_problem():
    problems = [Problem("jobs/a.yaml", 3, "train.lrr", "no such field"), Problem("jobs/a.yaml", None, "", "is empty")]
    error = SpecError(problems)
    for copy in (pickle.loads(pickle.dumps(error)), error_from_json(error.to_json())):
        assert copy.problems == problems
        assert str(copy) == "jobs/a.yaml:3: train.lrr: no such field\njobs/a.yaml: is empty"
        assert copy.exit_code == 2


def test_a_class_of_a_newer_rayml_is_still_told():
    assert str(error_from_json({"type": "Later", "what": "x", "where": "y", "hint": ""})) == "y: x"
