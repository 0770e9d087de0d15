"""The table of what goes together: docs/train.md shows it, and a plan keeps to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayml.errors import PlanError
from rayml.plan.combine import FEATURES, STRATEGIES, check_combination, combination_table
from rayml.plan.facts import GIB, Facts
from rayml.plan.plan import ClusterPlan
from rayml.plan.training import resolve_train
from rayml.spec.job import JobSpec

DOCUMENT = Path(__file__).parents[2] / "docs" / "train.md"

USES = {
    "accumulation": {"accumulation": 2},
    "clip by norm": {"clip": {"norm": 1.0}},
    "clip by value": {"clip": {"value": 0.1}},
    "L1 penalty": {"l1": 0.01},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "skip of non-finite steps": {"on_nonfinite": "skip"},
    "EMA": {"average": {"kind": "ema"}},
    "SWA": {"average": {"kind": "swa"}},
    "SWA with batch norm": {"average": {"kind": "swa"}, "model": {"kind": "torchvision", "name": "resnet18"}},
    "averaged weights with ZeRO stage 3": {"average": {"kind": "ema"}, "strategy": {"zero_stage": 3}},
    "LAMB, LARS": {"optimizer": {"kind": "lamb"}},
    "Adafactor, Muon": {"optimizer": {"kind": "muon"}},
    "activation checkpointing": {"activation_checkpointing": True},
    "compile": {"compile": True},
    "channels last": {"channels_last": True},
    "unfreezing after some epochs": {"freeze": [{"pattern": "network.1.*", "until_epoch": 2}]},
    "adapters": {"adapter": {"kind": "lora"}},
    "autotune": {"autotune": True},
}
"""How a job says each of them."""


def plan(strategy: str, changes: dict):
    changes = dict(changes)
    model = changes.pop("model", {"kind": "mlp"})
    more = changes.pop("strategy", {}) if strategy == "deepspeed" else {}
    changes.pop("strategy", None)
    if strategy == "tensor_parallel":
        more = {"layers": {"network.fc": "colwise"}}
    section = {"kind": strategy, **more}
    workers = 1 if strategy == "local" else 2
    job = JobSpec.model_validate(
        {
            "name": "combined",
            "data": {"source": {"kind": "sklearn", "name": "digits"}},
            "task": {"kind": "image_classification"},
            "model": model,
            "train": {"workers": workers, "strategy": section, **changes},
        }
    )
    facts = Facts(cpus=2, gpus=0, memory=8 * GIB, source="", code={})
    return resolve_train(job, ClusterPlan(cpus=2, gpus=0, object_store=0), facts)


def test_the_document_shows_the_table():
    before, _, rest = DOCUMENT.read_text().partition("<!-- combinations -->\n")
    shown, mark, _ = rest.partition("<!-- /combinations -->")
    assert before, "the document begins before the table"
    assert mark, "the document goes on after the table"
    assert shown == combination_table() + "\n"


def test_every_feature_can_be_said():
    assert USES.keys() == {feature.name for feature in FEATURES}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_a_plan_refuses_what_the_table_refuses_and_nothing_else(feature, strategy):
    if strategy not in feature.refused:
        config, _, _ = plan(strategy, USES[feature.name])
        check_combination(config)
        return
    with pytest.raises(PlanError) as caught:
        plan(strategy, USES[feature.name])
    assert caught.value.where == feature.where or strategy == "deepspeed"
    assert caught.value.hint
