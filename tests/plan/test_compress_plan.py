"""The compress step in the plan: what decides its key, what its autos become, what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayml.errors import PlanError
from rayml.plan import compressing
from rayml.plan.build import build_plan, build_trial
from rayml.plan.facts import GIB, Facts
from rayml.plan.plan import Plan
from rayml.spec.load import load_cluster, load_job

ROOT = Path(__file__).parents[2]
STAGES = ("data", "tune", "train", "compress", "export", "evaluate", "serve")
FACTS = Facts(cpus=4, gpus=0, memory=16 * GIB, source="f" * 32, code={stage: stage * 8 for stage in STAGES})


def plan(*overrides: str) -> Plan:
    job = load_job(ROOT / "jobs/digits-compress.yaml", overrides)
    return build_plan(job, load_cluster(None), FACTS, "jobs/digits-compress.yaml", ROOT / "jobs")


def keys(resolved: Plan) -> dict[str, str]:
    return {step.name: step.key for step in resolved.steps}


AFTER = {"compress", "export", "evaluate", "serve"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("compress.ladder.1.structured=0.3", AFTER),
        ("compress.budget.size=50KB", AFTER),
        ("compress.min_gain=0.1", AFTER),
        ("train.epochs=14", {"train", *AFTER}),
        ("train.retries=7", set()),
        ("evaluate.bootstrap=2000", {"evaluate"}),
    ],
)
def test_what_decides_the_compression_is_its_key(change, expected):
    before, after = keys(plan()), keys(plan(change))
    assert {name for name in before if before[name] != after[name]} == expected


def test_export_reads_what_compress_left_and_a_job_without_it_is_as_before():
    assert set(plan().step("export").inputs) == {"data", "train", "compress"}
    job = load_job(ROOT / "jobs/digits.yaml")
    whole = build_plan(job, load_cluster(None), FACTS, "jobs/digits.yaml", ROOT / "jobs")
    assert set(whole.step("export").inputs) == {"data", "train"}


def test_autos_are_numbers():
    ladder = "compress.ladder=[{kind: distill}, {kind: prune, structured: 0.5}, {kind: quantize}]"
    config = plan(ladder).step("compress").config
    distill, prune, quantize = config["ladder"]
    assert (distill["finetune"]["epochs"], prune["finetune"]["epochs"]) == (15, 5)
    assert "finetune" not in quantize, "another training would not change what quantizing makes"
    assert config["prefer"] == "size"
    assert plan("compress.budget.p95_ms=2").step("compress").config["prefer"] == "latency"


def test_a_strategy_that_cannot_take_a_changed_network_gives_way_to_ddp():
    change = ["train.strategy={kind: pipeline}", "model={kind: mlp}", "train.batch_size=64"]
    resolved = plan(*change, "compress.ladder=[{kind: prune, structured: 0.5}]")
    assert resolved.step("train").config["strategy"]["kind"] == "pipeline"
    assert resolved.step("compress").config["train"]["strategy"]["kind"] == "ddp"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["compress.budget.p50_ms=3", "compress.budget.p95_ms=2"], "p95_ms: 2 is below p50_ms: 3"),
        (["compress.budget.size=100KB", "compress.budget.ram=50KB"], "ram: 50,000 bytes is below size: 100,000"),
    ],
)
def test_a_budget_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(PlanError, match=said) as caught:
        plan(*changes)
    assert caught.value.where == "compress.budget"
    assert caught.value.exit_code == 2


def test_a_pass_without_its_library_is_refused_with_what_to_type(monkeypatch):
    monkeypatch.setattr(compressing, "find_spec", lambda name: None)
    with pytest.raises(PlanError, match="prune needs torch-pruning") as caught:
        plan()
    assert caught.value.where == "compress.ladder.1"
    assert "rayml[compress]" in caught.value.hint


SWEEP = [
    "tune={space: {compress.ladder.1.structured: {choice: [0.25, 0.5]}}, objectives: [{metric: compress/accuracy}]}",
]


def test_a_trial_of_a_ladder_ends_with_its_last_rung_and_shares_the_training():
    resolved = plan(*SWEEP)
    assert resolved.origin is not None
    one, other = (build_trial(resolved.origin, {"compress.ladder.1.structured": share}) for share in (0.25, 0.5))
    assert [step.name for step in one] == ["data", "train", "compress"]
    assert [a.key == b.key for a, b in zip(one, other, strict=True)] == [True, True, False]
    assert one[1].key == plan().step("train").key
    budgets = [step.config["budget"] for step in (one[2], resolved.step("compress"))]
    assert all(bound is None for bound in budgets[0].values())
    assert budgets[1]["size"] == 60_000


def test_a_trial_exports_the_compressed_file_where_its_size_is_asked_for():
    sized = ["tune={space: {compress.ladder.1.structured: {choice: [0.25]}}, objectives: [{metric: size_bytes}]}"]
    resolved = plan(*sized)
    assert resolved.origin is not None
    assert [step.name for step in build_trial(resolved.origin, {})] == ["data", "train", "compress", "export"]
