"""The tune step: what decides it, what a trial is, and that a trial is the same work as a plain job with its values."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayml.errors import PlanError
from rayml.plan.build import build_plan, build_trial, rebuild_plan
from rayml.plan.facts import GIB, Facts
from rayml.plan.plan import Decision, Plan
from rayml.plan.preview import preview
from rayml.plan.tuning import check_sweep
from rayml.spec.load import load_cluster, load_job

ROOT = Path(__file__).parents[2]
STAGES = ("data", "tune", "train", "compress", "export", "evaluate", "serve")
FACTS = Facts(cpus=4, gpus=0, memory=16 * GIB, source="f" * 32, code={stage: stage * 8 for stage in STAGES})


def plan(*overrides: str, job: str = "digits-sweep", cluster: Path | None = None, facts: Facts = FACTS) -> Plan:
    spec = load_job(ROOT / "jobs" / f"{job}.yaml", overrides)
    return build_plan(spec, load_cluster(cluster), facts, f"jobs/{job}.yaml", ROOT / "jobs")


def keys(resolved: Plan) -> dict[str, str]:
    return {step.name: step.key for step in resolved.steps}


def decision(**values) -> Decision:
    return Decision(trial=3, values=values, objectives={"val/accuracy": 0.9}, why="best")


AFTER = {"tune", "train", "export", "evaluate"}
CHANGES = [
    ("seed=8", {"data", *AFTER}),
    ("data.normalize=minmax", {"data", *AFTER}),
    ("tune.budget.trials=13", AFTER),
    ("tune.search={kind: random}", AFTER),
    ("tune.scheduler.reduction=4", AFTER),
    ("tune.objectives=[{metric: val/loss}]", AFTER),
    ("tune.constraints=[model.width < 40]", AFTER),
    ("tune.known=[{model.width: 8}]", AFTER),
    ("tune.max_failures=3", set()),
    ("train.epochs=10", AFTER),
    ("train.batch_size=32", AFTER),
    ("model.dropout=0.3", AFTER),
    ("tune.choose=best", set()),
    ("tune.final=retrain", set()),
    ("tune.concurrency=1", set()),
    ("tune.cpus_per_worker=2", set()),
    ("train.retries=7", set()),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=[change for change, _ in CHANGES])
def test_what_decides_a_sweep_is_its_key_and_what_picks_from_it_is_not(change, expected):
    before, after = keys(plan()), keys(plan(change))
    assert {name for name in before if before[name] != after[name]} == expected


def test_a_larger_cluster_changes_no_key_and_takes_more_trials():
    larger = Facts(**{**vars(FACTS), "cpus": 64})
    assert keys(plan(facts=larger)) == keys(plan())
    assert plan().step("tune").policy["concurrency"] == 4
    assert plan(facts=larger).step("tune").policy["concurrency"] == 64
    assert plan("tune.concurrency=3").step("tune").policy["concurrency"] == 3
    assert plan("tune.cpus_per_worker=2").step("tune").policy["concurrency"] == 2
    nodes = plan(cluster=ROOT / "cluster" / "autoscaling-local.yaml")
    assert nodes.step("tune").policy["concurrency"] == 4 + nodes.cluster.nodes.max * nodes.cluster.nodes.cpus


def test_the_steps_after_a_sweep_have_keys_of_their_own_until_it_is_decided():
    undecided, plain = plan(), plan(job="digits-sweep")
    decided = rebuild_plan(undecided, decision(**{"model.width": 8, "train.optimizer.lr": 0.01}))
    assert keys(undecided)["train"] != keys(decided)["train"]
    assert keys(undecided)["tune"] == keys(decided)["tune"]
    assert decided.step("train").config["model"]["width"] == 8
    assert decided.step("train").config["optimizer"]["lr"] == 0.01
    assert decided.decision.trial == 3
    assert Plan.model_validate_json(decided.model_dump_json()) == decided
    assert keys(rebuild_plan(plain, decision())) == keys(rebuild_plan(undecided, decision()))


def test_a_trial_has_the_keys_of_a_plain_job_with_its_values(tmp_path):
    values = {"model.width": 16, "train.optimizer.lr": 0.003, "model.dropout": 0.1}
    resolved = plan()
    trial = build_trial(resolved.origin, values)
    assert [step.name for step in trial] == ["data", "train", "export"]
    text = (ROOT / "jobs" / "digits-sweep.yaml").read_text()
    start, end = text.index("tune:"), text.index("train:\n")
    (tmp_path / "plain.yaml").write_text(text[:start] + text[end:])
    spec = load_job(tmp_path / "plain.yaml", [f"{key}={value}" for key, value in values.items()])
    plain = build_plan(spec, load_cluster(None), FACTS, "plain.yaml", tmp_path)
    assert [step.key for step in trial] == [plain.step(name).key for name in ("data", "train", "export")]
    settled = rebuild_plan(resolved, decision(**values))
    assert settled.step("train").key == trial[1].key
    assert trial[1].policy["launcher"] == "inline", "its one worker is the trial's own process"
    assert build_trial(resolved.origin, {**values, "train.workers": 2})[1].policy["launcher"] == "processes"


def test_weights_with_a_history_have_keys_that_no_job_file_has():
    origin = plan().origin
    plain, marked = build_trial(origin, {}), build_trial(origin, {}, {"sweep": "k", "trial": 1, "take": 0})
    assert plain[0].key == marked[0].key
    assert plain[1].key != marked[1].key
    assert plain[2].key != marked[2].key


def test_a_trial_exports_only_where_it_is_asked_for():
    origin = plan("tune.objectives=[{metric: val/loss}]").origin
    assert [step.name for step in build_trial(origin, {})] == ["data", "train"]
    origin = plan("tune.objectives=[{metric: val/loss}]", 'tune.limits={latency_p95_ms: "< 5"}').origin
    assert [step.name for step in build_trial(origin, {})] == ["data", "train", "export"]


def test_values_that_the_jobs_rules_refuse_are_refused_before_they_cost_anything():
    with pytest.raises(PlanError, match=r"tune.space: train.epochs: 0 is not a whole number of at least 1"):
        build_trial(plan().origin, {"train.epochs": 0})
    with pytest.raises(PlanError, match="batch_size 10 = 1 share x accumulation 3"):
        build_trial(plan().origin, {"train.batch_size": 10, "train.accumulation": 3})


def test_autos_are_numbers():
    tune = plan("tune.search=auto", "tune.objectives=[{metric: val/loss}, {metric: samples_per_s}]")
    config = tune.step("tune").config
    assert config["search"] == {"kind": "tpe", "startup": 10}
    assert [each["goal"] for each in config["objectives"]] == ["min", "max"]
    assert tune.step("tune").policy["choose"] == "knee"
    assert plan("tune.scheduler={kind: asha}").step("tune").config["scheduler"]["grace"] == 1
    longer = plan("tune.scheduler={kind: asha}", "train.epochs=30").step("tune")
    assert longer.config["scheduler"]["grace"] == 3
    grid = plan(
        "tune.space={model.width: {grid: [8, 16]}, model.dropout: {grid: [0.0, 0.1, 0.2]}}",
        "tune.search=auto",
        "tune.budget.trials=auto",
    ).step("tune")
    assert grid.config["search"] == {"kind": "grid"}
    assert grid.config["budget"]["trials"] == 6
    assert plan("tune.budget.trials=auto").step("tune").config["budget"]["trials"] == 20
    timed = plan("tune.budget={wall: 10m}").step("tune").config["budget"]
    assert timed == {"trials": None, "wall_s": 600.0, "cpu_hours": None, "gpu_hours": None, "money": None}


def test_a_preview_is_what_the_sweep_tries_first():
    size, points = preview(plan("tune.search={kind: random}"))
    assert size is None
    assert len(points) == 3
    assert points == preview(plan("tune.search={kind: random}"))[1]
    size, points = preview(plan("tune.space={model.width: {grid: [8, 16]}}", "tune.search={kind: grid}"))
    assert (size, points) == (2, [{"model.width": 8}, {"model.width": 16}])


def test_what_a_cluster_cannot_hold_is_refused():
    with pytest.raises(PlanError, match="a trial needs 8 CPUs"):
        plan("tune.cpus_per_worker=8")
    with pytest.raises(PlanError, match="the cluster file has no prices"):
        plan("tune.budget.money=2")
    priced = plan("tune.budget.money=2", cluster=ROOT / "cluster" / "autoscaling-local.yaml")
    assert priced.step("tune").policy["prices"]["node"] > 0


@pytest.mark.parametrize(
    ("changes", "seconds", "refused"),
    [
        (("tune.budget={wall: 2s}", "tune.scheduler={kind: fifo}"), 9.0, True),
        (("tune.budget={wall: 2s}", "tune.scheduler={kind: asha, grace: 1}"), 9.0, False),
        (("tune.budget={wall: 2s}", "tune.scheduler={kind: asha, grace: 3}"), 9.0, True),
        (("tune.budget={cpu_hours: 0.001}", "tune.scheduler={kind: fifo}"), 9.0, True),
        (("tune.budget={cpu_hours: 0.003}", "tune.scheduler={kind: fifo}"), 9.0, False),
        (("tune.budget={wall: 2s}", "tune.scheduler={kind: fifo}"), None, False),
    ],
)
def test_a_budget_that_cannot_pay_for_one_trial_is_refused_once_a_trial_is_known(changes, seconds, refused):
    known = {} if seconds is None else {"train": seconds}
    if not refused:
        check_sweep(plan(*changes), known)
        return
    with pytest.raises(PlanError, match="pays for less than one trial") as caught:
        check_sweep(plan(*changes), known)
    assert caught.value.where in ("tune.budget.wall", "tune.budget.cpu_hours")


def test_nodes_of_one_machine_do_not_share_out_its_gpus(tmp_path):
    (tmp_path / "cluster.yaml").write_text("{kind: local, nodes: {max: 2, gpus: 1}}\n")
    with pytest.raises(PlanError, match="would all be given the same ones"):
        plan(cluster=tmp_path / "cluster.yaml")


@pytest.mark.parametrize(
    ("scheduler", "handed_out"),
    [("fifo", 4), ("asha", 4), ("hyperband", 12), ("pbt", 12), ("pb2", 12)],
)
def test_trials_that_wait_for_each_other_are_all_handed_out(scheduler, handed_out):
    tune = plan(f"tune.scheduler={{kind: {scheduler}}}", "tune.objectives=[{metric: val/loss}]").step("tune")
    assert (tune.policy["concurrency"], tune.policy["handed_out"]) == (4, handed_out)
