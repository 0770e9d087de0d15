"""The tune step: every "auto" of the section resolved, and what its trials have in common."""

from __future__ import annotations

from typing import Any

from rayml.artifacts.manifest import digest
from rayml.errors import PlanError
from rayml.plan.facts import Facts
from rayml.plan.plan import ClusterPlan, Origin, Plan, Resources, Step, make_step
from rayml.plan.training import dump
from rayml.spec.job import JobSpec
from rayml.spec.space import Space, space_of
from rayml.spec.tune import HIGHER_IS_BETTER, TuneSpec
from rayml.spec.words import count

AUTO_TRIALS = 20
WAITING = ("hyperband", "pbt", "pb2")
"""Schedulers in whose eyes a trial that was not added yet does not exist."""
UNBOUNDED_BRACKETS = 27
"""Trials that HyperBand deals out over its brackets where only time ends the sweep."""
GRACE_PART = 9


def build_tune_step(job: JobSpec, origin: Origin, cluster: ClusterPlan, facts: Facts, trial: list[Step]) -> Step:
    """The step that runs a sweep.

    Args:
        trial: the steps of a trial with the job's own values. All that decides them decides the sweep.
    """
    tune = job.tune
    assert tune is not None, "a step is made of a section that is present"
    space = space_of(job)
    config = {
        **{name: dump_section(tune, name) for name in ("space", "constraints", "known")},
        "warm_start": [digest(trial) for trial in facts.warm],
        "search": resolve_search(tune, space),
        "scheduler": resolve_scheduler(tune, trial[1].config["epochs"]),
        "objectives": resolve_objectives(tune),
        "budget": resolve_budget(tune, space),
        "seed": job.seed,
        "trial": {step.name: {"config": step.config, "code": step.code} for step in trial},
    }
    training = trial[1]
    cpus = training.resources.workers * training.resources.cpus_per_worker
    gpus = training.resources.workers * training.resources.gpus_per_worker
    check_prices(tune, cluster)
    concurrency = resolve_concurrency(tune, cluster, cpus, gpus)
    policy = {
        "choose": resolve_choose(tune),
        "limits": dict(tune.limits),
        "final": tune.final,
        "concurrency": concurrency,
        "handed_out": resolve_handed_out(config["scheduler"], config["budget"], concurrency),
        "max_failures": tune.max_failures,
        "retries_of_a_trial": training.policy["retries"],
        "warm": warm_trials(facts, resolve_objectives(tune)),
        "prices": {"head": cluster.price_per_hour, "node": cluster.nodes and cluster.nodes.price_per_hour},
    }
    inputs = {"data": trial[0].key}
    code = facts.code["tune"]
    resources = Resources(workers=concurrency, cpus_per_worker=cpus, gpus_per_worker=gpus, ray=True)
    return make_step("tune", config, inputs, code, policy, resources)


def dump_section(tune: TuneSpec, name: str) -> Any:
    """A field as it was written, in JSON."""
    return tune.model_dump(mode="json", include={name}, exclude_none=True)[name]


def resolve_search(tune: TuneSpec, space: Space) -> dict[str, Any]:
    """The search with its parameters."""
    if tune.search != "auto":
        return dump(tune.search)
    if all(dimension.is_grid for dimension in space.dimensions):
        return {"kind": "grid"}
    return {"kind": "tpe", "startup": 10}


def resolve_scheduler(tune: TuneSpec, epochs: int) -> dict[str, Any]:
    """The scheduler with its parameters.

    Args:
        epochs: of a trial that trains to its end.
    """
    scheduler = dump(tune.scheduler)
    if scheduler.get("grace") == "auto":
        scheduler["grace"] = max(1, epochs // GRACE_PART)
    return scheduler


def resolve_objectives(tune: TuneSpec) -> list[dict[str, str]]:
    """Each metric with its goal."""
    return [
        {
            "metric": objective.metric,
            "goal": ("max" if objective.metric in HIGHER_IS_BETTER else "min")
            if objective.goal == "auto"
            else objective.goal,
        }
        for objective in tune.objectives
    ]


def resolve_budget(tune: TuneSpec, space: Space) -> dict[str, Any]:
    """The limits; `trials` is None where only the others end the sweep."""
    written = tune.budget
    limits = {"wall_s": written.wall, **{name: getattr(written, name) for name in ("cpu_hours", "gpu_hours", "money")}}
    trials = None if written.trials == "auto" else written.trials
    grid = resolve_search(tune, space)["kind"] == "grid"
    size = sum(1 for _ in space.grid()) if grid and space.constraints else space.size
    if trials is None and not grid and all(limit is None for limit in limits.values()):
        trials = AUTO_TRIALS
    if size is not None and not space.constraints:
        trials = size if trials is None else min(trials, size)
    elif grid:
        trials = size if trials is None else min(trials, size or 0)
    return {"trials": trials, **limits}


def warm_trials(facts: Facts, objectives: list[dict[str, str]]) -> list[list[Any]]:
    """`[point, values]` of each earlier trial that came to its end and has every objective."""
    names = [objective["metric"] for objective in objectives]
    return [
        [trial["point"], [trial["values"][name] for name in names]]
        for trial in facts.warm
        if trial["status"] == "done" and all(name in trial["values"] for name in names)
    ]


def resolve_choose(tune: TuneSpec) -> str:
    """best or knee."""
    if tune.choose != "auto":
        return tune.choose
    return "best" if len(tune.objectives) == 1 or tune.limits else "knee"


def resolve_concurrency(tune: TuneSpec, cluster: ClusterPlan, cpus: int, gpus: int) -> int:
    """Trials that the cluster holds at its largest."""
    holds = trials_of(cluster.cpus, cluster.gpus, cpus, gpus)
    if cluster.nodes is not None:
        holds += cluster.nodes.max * trials_of(cluster.nodes.cpus, cluster.nodes.gpus, cpus, gpus)
    return holds if tune.concurrency == "auto" else min(tune.concurrency, holds)


def resolve_handed_out(scheduler: dict[str, Any], budget: dict[str, Any], concurrency: int) -> int:
    """Trials that Ray Tune knows of at a time: all of them where trials wait for each other, and take turns."""
    if scheduler["kind"] not in WAITING:
        return concurrency
    return max(concurrency, budget["trials"] or UNBOUNDED_BRACKETS)


def check_fits(cluster: ClusterPlan, cpus: int, gpus: int) -> None:
    """PlanError where no node of the cluster holds a trial."""
    nodes = cluster.nodes
    fits = trials_of(cluster.cpus, cluster.gpus, cpus, gpus)
    if fits == 0 and (nodes is None or trials_of(nodes.cpus, nodes.gpus, cpus, gpus) == 0):
        largest = max(cluster.cpus, nodes.cpus if nodes else 0)
        raise PlanError(
            f"a trial needs {count(cpus, 'CPU')} and {count(gpus, 'GPU')}, and no node of the cluster has as many",
            where="tune",
            hint=f"write train.workers and tune.cpus_per_worker so that their product is at most {largest}",
        )


def trials_of(has_cpus: int, has_gpus: int, cpus: int, gpus: int) -> int:
    """Trials that a node holds at a time."""
    return min(has_cpus // cpus, has_gpus // gpus) if gpus else has_cpus // cpus


def check_prices(tune: TuneSpec, cluster: ClusterPlan) -> None:
    """PlanError where money is a limit and nothing has a price."""
    priced = cluster.price_per_hour or (cluster.nodes is not None and cluster.nodes.price_per_hour)
    if tune.budget.money is not None and not priced:
        raise PlanError(
            f"a budget of {tune.budget.money:g}, and the cluster file has no prices",
            where="tune.budget.money",
            hint="write price_per_hour into the cluster file, and name it by --cluster",
        )


def check_sweep(plan: Plan, seconds: dict[str, float]) -> None:
    """PlanError where a sweep's budget cannot pay for one trial.

    Args:
        seconds: step to what it took last time.
    """
    for step in plan.steps:
        if step.name == "tune":
            check_budget(step, seconds.get("train"))


def check_budget(step: Step, trial_s: float | None) -> None:
    """PlanError where a budget cannot pay for one trial.

    Args:
        trial_s: seconds that this job's training took last time; None where it never ran here.
    """
    if trial_s is None:
        return
    config, resources = step.config, step.resources
    least_s = trial_s * config["scheduler"].get("grace", config["trial"]["train"]["config"]["epochs"])
    least_s /= config["trial"]["train"]["config"]["epochs"]
    held = {
        "wall_s": ("wall", 1.0, f"{least_s:.3g}s"),
        "cpu_hours": (
            "cpu_hours",
            resources.cpus_per_worker / 3600,
            f"{least_s * resources.cpus_per_worker / 3600:.2g}",
        ),
        "gpu_hours": (
            "gpu_hours",
            resources.gpus_per_worker / 3600,
            f"{least_s * resources.gpus_per_worker / 3600:.2g}",
        ),
    }
    for name, (field, per_s, least) in held.items():
        limit = config["budget"][name]
        if limit is not None and limit < least_s * per_s:
            raise PlanError(
                f"{limit:g} pays for less than one trial: this job's training took {trial_s:.3g} s last time",
                where=f"tune.budget.{field}",
                hint=f"write more than {least}, for each trial that is wanted",
            )


def as_part_of_a_trial(step: Step) -> Step:
    """A step in which the one worker that trains is the trial's own process, which has imported torch.

    PlanError where its workers are Ray Train's: they would ask for places that the trial itself holds.
    """
    if step.name == "compress":
        return step.model_copy(update={"policy": {**step.policy, "train": {**step.policy["train"], **inline(step)}}})
    if step.name != "train":
        return step
    if step.policy["launcher"] == "ray_train":
        strategy = step.config["strategy"]["kind"]
        raise PlanError(
            f"strategy {strategy} has its workers from Ray Train, and those of a trial stand on one node",
            where="train.strategy.kind" if strategy == "parameter_server" else "train.launcher",
            hint="write launcher: processes, and strategy: {kind: ddp} or fsdp",
        )
    return step.model_copy(update={"policy": {**step.policy, **inline(step)}})


def inline(step: Step) -> dict[str, str]:
    """The launcher of a trial's training, where it has one worker."""
    return {"launcher": "inline"} if step.resources.workers == 1 else {}
