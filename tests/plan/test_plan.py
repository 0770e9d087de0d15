"""The plan: pure, every "auto" a number, and a changed key re-runs exactly what depends on it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from rayml.artifacts.manifest import Manifest
from rayml.artifacts.store import LocalStore
from rayml.errors import PlanError
from rayml.plan.build import build_plan, cut_after
from rayml.plan.diff import diff_plans
from rayml.plan.facts import GIB, Facts, gather_facts
from rayml.plan.plan import Plan
from rayml.plan.render import plan_json, print_plan, resolved_values
from rayml.plan.show import forecast
from rayml.spec.load import load_cluster, load_job

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
CLUSTERS = sorted((ROOT / "cluster").glob("*.yaml"))
FACTS = Facts(
    cpus=4,
    gpus=0,
    memory=16 * GIB,
    source="f" * 32,
    code={stage: stage * 8 for stage in ("data", "train", "compress", "export", "evaluate", "serve")},
)


def plan(*overrides: str, facts: Facts = FACTS) -> Plan:
    job = load_job(ROOT / "jobs" / "digits.yaml", overrides)
    return build_plan(job, load_cluster(None), facts, "jobs/digits.yaml", ROOT / "jobs")


def keys(resolved: Plan) -> dict[str, str]:
    return {step.name: step.key for step in resolved.steps}


@pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_every_job_is_planned_on_every_cluster(job, cluster):
    spec, where = load_job(job), load_cluster(cluster)
    resolved = build_plan(spec, where, gather_facts(spec, where, job.parent), str(job), job.parent)
    assert [step.name for step in resolved.steps] == [
        name
        for name in ("data", "tune", "train", "compress", "export", "evaluate", "serve")
        if getattr(spec, name) is not None
    ]
    assert Plan.model_validate_json(resolved.model_dump_json()) == resolved
    nodes = resolved.cluster.nodes
    cpus = {"tune": resolved.cluster.cpus + (nodes.max * nodes.cpus if nodes else 0)}
    for step in resolved.steps:
        held = step.resources.workers * step.resources.cpus_per_worker
        assert held <= cpus.get(step.name, resolved.cluster.cpus)


ALL = {"data", "train", "export", "evaluate", "serve"}
AFTER_DATA = ALL - {"data"}
CHANGES = [
    ("seed=8", ALL),
    ("data.source.name=digits", set()),
    ("data.split.stratify=none", ALL),
    ("data.split={train: 0.7, val: 0.2, test: 0.1}", ALL),
    ("data.normalize=minmax", ALL),
    ("data.missing=mean", ALL),
    ("data.image.size=[8, 8]", ALL),
    ("data.image.channels=3", ALL),
    ("data.shard_rows=100", ALL),
    ("model.width=16", AFTER_DATA),
    ("model.width=48", set()),
    ("model.dropout=0.1", AFTER_DATA),
    ("model={kind: mlp, hidden: [32]}", AFTER_DATA),
    ("train.workers=1", AFTER_DATA),
    ("train.epochs=16", AFTER_DATA),
    ("train.batch_size=32", AFTER_DATA),
    ("train.batch_size=64", set()),
    ("train.optimizer.lr=0.01", AFTER_DATA),
    ("train.optimizer.weight_decay=0.0", AFTER_DATA),
    ("train.optimizer={kind: sgd}", AFTER_DATA),
    ("train.best.metric=val/accuracy", AFTER_DATA),
    ("train.best.goal=min", set()),
    ("train.retries=5", set()),
    ("train.checkpoint.keep=7", set()),
    ("train.checkpoint.every_steps=10", set()),
    ("export.opset=21", {"export", "evaluate", "serve"}),
    ("export.opset=20", set()),
    ("export.parity.samples=8", {"export", "evaluate", "serve"}),
    ("export.parity.tolerance=1e-3", set()),
    ("evaluate.split=val", {"evaluate"}),
    ("evaluate.bootstrap=200", {"evaluate"}),
    ("evaluate.gates.accuracy='>= 0.5'", set()),
    ("serve.max_body=1MiB", {"serve"}),
    ("serve.max_rows=5", {"serve"}),
    ("serve.auth=none", {"serve"}),
    ("serve.parity.samples=8", {"serve"}),
    ("serve.parity.tolerance=0.5", set()),
    ("serve.port=8123", set()),
    ("serve.replicas.max=2", set()),
    ("name=other", {"export", "evaluate", "serve"}),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=[change for change, _ in CHANGES])
def test_a_changed_key_re_runs_exactly_what_depends_on_it(change, expected):
    before, after = keys(plan()), keys(plan(change))
    assert {name for name in before if before[name] != after[name]} == expected


@pytest.mark.parametrize(("stage", "expected"), [("data", ALL), ("train", AFTER_DATA), ("serve", {"serve"})])
def test_changed_code_re_runs_what_runs_it(stage, expected):
    changed = Facts(**{**vars(FACTS), "code": {**FACTS.code, stage: "new"}})
    before, after = keys(plan()), keys(plan(facts=changed))
    assert {name for name in before if before[name] != after[name]} == expected


def test_a_larger_machine_changes_no_key():
    larger = Facts(**{**vars(FACTS), "cpus": 64, "memory": 256 * GIB})
    assert keys(plan()) == keys(plan(facts=larger))
    assert plan(facts=larger).step("train").resources.cpus_per_worker == 32


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "per_worker"), [(1, 0, 1, 1), (2, 0, 1, 2), (8, 0, 4, 2), (16, 4, 4, 4)]
)
def test_auto_workers(cpus, gpus, workers, per_worker):
    train = plan("train.workers=auto", facts=Facts(**{**vars(FACTS), "cpus": cpus, "gpus": gpus})).step("train")
    assert train.config["workers"] == train.resources.workers == workers
    assert train.resources.cpus_per_worker == per_worker
    assert train.resources.gpus_per_worker == (1 if gpus else 0)


def test_no_auto_is_left():
    shown = resolved_values(plan(), forecast(plan(), LocalStore(Path("/nowhere")), None))
    assert "auto" not in {str(value) for _, value in shown}


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_plan_can_be_read_on_a_narrow_terminal(width):
    console = Console(file=io.StringIO(), width=width)
    print_plan(console, plan(), forecast(plan(), LocalStore(Path("/nowhere")), None))
    table = console.file.getvalue().partition("resolved")[0]
    assert max(map(len, table.splitlines())) <= width
    assert "never ran" in table
    assert "data runs first" in table
    assert (plan().step("data").key[:12] in table) == (width >= 90)


@pytest.mark.parametrize(
    ("change", "facts", "words"),
    [
        ("train.workers=5", {}, "5 workers, and the cluster has 4 CPUs"),
        ("train.workers=3", {"gpus": 2}, "3 workers, and the cluster has 2 GPUs"),
        ("serve.replicas={min: 9, max: 9}", {}, "9 replicas, and the cluster has 4 CPUs"),
    ],
)
def test_what_does_not_fit_the_cluster_is_said_with_what_does(change, facts, words):
    with pytest.raises(PlanError, match=words) as caught:
        plan(change, facts=Facts(**{**vars(FACTS), **facts}))
    assert "--set" in caught.value.hint
    assert caught.value.exit_code == 2


def test_cutting_after_a_step():
    assert [step.name for step in cut_after(plan(), "export").steps] == ["data", "train", "export"]
    with pytest.raises(PlanError, match="tune is not a step"):
        cut_after(plan(), "tune")


def commit(store: LocalStore, resolved: Plan, *names: str) -> None:
    for step in resolved.steps:
        if step.name in names:
            facts = {"classes": ["0", "1"], "shape": [8, 8, 1]} if step.name == "data" else {}
            manifest = Manifest(
                kind=step.name,
                key=step.key,
                files=(),
                config=step.config,
                inputs=step.inputs,
                code=step.code,
                metrics={"rows": 1797.0},
                facts=facts,
                environment={},
                run="digits-1",
                job=resolved.job,
                created="2026-11-21T00:00:00",
                seconds=12.5,
            )
            store.commit(store.staging(step.name, step.key), manifest)


def reasons(planned):
    return {step.name: (step.status, step.reason) for step in planned.steps}


def test_the_forecast_says_what_is_cached_and_why_the_rest_runs(tmp_path):
    store, before = LocalStore(tmp_path), plan()
    never = forecast(before, store, None)
    assert reasons(never)["data"] == ("run", "never ran")
    assert reasons(never)["train"] == ("run", "data runs first")
    assert never.resolved["classes"] == "from data"

    commit(store, before, "data", "train", "export")
    after = plan("train.epochs=20", "evaluate.bootstrap=500")
    planned = forecast(after, store, before)
    assert reasons(planned) == {
        "data": ("cached", "made by digits-1"),
        "train": ("run", "train.epochs: 15 -> 20"),
        "export": ("run", "train runs first"),
        "evaluate": ("run", "evaluate.bootstrap: 1000 -> 500"),
        "serve": ("run", "export runs first"),
    }
    assert planned.resolved == {"classes": 2, "shape": [8, 8, 1], "rows": 1797}
    assert [step.estimate_s for step in planned.steps] == [0.0, 12.5, 12.5, None, None]
    assert [step.name for step in planned.work] == ["train", "export", "evaluate", "serve"]
    document = plan_json(after, planned)
    assert document["will_run"] == ["train", "export", "evaluate", "serve"]

    assert reasons(forecast(before, store, before))["evaluate"] == ("run", "was not finished")


def test_a_diff_names_the_key_that_changed():
    changes = diff_plans(plan(), plan("train.optimizer.lr=0.01", "data.normalize=none"))
    assert [str(change) for change in changes] == [
        "data: data.normalize: standard -> none",
        "train: train.optimizer.lr: 0.002 -> 0.01",
    ]
    assert diff_plans(plan(), plan("train.retries=9")) == []
    code = Facts(**{**vars(FACTS), "code": {**FACTS.code, "train": "other"}})
    assert [str(change) for change in diff_plans(plan(), plan(facts=code))] == ["train: its code changed"]
    assert str(diff_plans(plan(), cut_after(plan(), "evaluate"))[0]) == "serve: serve: present -> absent"
