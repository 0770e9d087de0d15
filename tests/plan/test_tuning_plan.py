"""The keys that the autotuner turns: resolved by the plan, and refused where they cannot hold."""

from __future__ import annotations

import pytest

from rayml.errors import PlanError
from rayml.plan.facts import GIB, Facts
from rayml.plan.plan import ClusterPlan
from rayml.plan.training import resolve_train
from rayml.spec.job import JobSpec

FACTS = Facts(cpus=8, gpus=0, memory=8 * GIB, source="", code={})


def plan(gpus=0, **train):
    job = JobSpec.model_validate(
        {
            "name": "tuned",
            "data": {"source": {"kind": "sklearn", "name": "digits"}},
            "task": {"kind": "image_classification"},
            "model": {"kind": "small_cnn"},
            "train": {"workers": 2, **train},
        }
    )
    return resolve_train(job, ClusterPlan(cpus=8, gpus=gpus, object_store=0), FACTS)


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        (False, None),
        (True, {"steps": 20, "precision": True}),
        ({"steps": 30, "precision": False}, {"steps": 30, "precision": False}),
    ],
)
def test_what_is_tried_is_resolved(written, resolved):
    config, _, _ = plan(autotune=written)
    assert config["autotune"] == resolved


@pytest.mark.parametrize(("written", "resolved"), [("auto", 4), (3, 3)])
def test_threads_are_policy_and_in_no_key(written, resolved):
    config, policy, _ = plan(threads=written)
    assert policy["threads"] == resolved
    assert "threads" not in config


@pytest.mark.parametrize(
    ("gpus", "train", "where", "words"),
    [
        (0, {"autotune": True, "deterministic": True}, "train.autotune", "deterministic asks for the same bits"),
        (2, {"strategy": {"kind": "ddp", "transport": "shared_memory"}}, "train.strategy.transport", "have GPUs"),
        (
            0,
            {"strategy": {"kind": "ddp", "transport": "shared_memory", "compress": "fp16"}},
            "train.strategy.transport",
            "compress fp16 rounds what is sent",
        ),
    ],
)
def test_what_cannot_hold_is_refused(gpus, train, where, words):
    with pytest.raises(PlanError, match=words) as caught:
        plan(gpus, **train)
    assert caught.value.where == where
    assert caught.value.hint
