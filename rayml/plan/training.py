"""The train step: every "auto" of the section a number, and what cannot be done refused before a worker starts."""

from __future__ import annotations

from typing import Any

from rayml.errors import PlanError
from rayml.plan.combine import check_combination
from rayml.plan.deepspeed import resolve_deepspeed
from rayml.plan.degrees import auto_batch_size, check_batch, resolve_degrees
from rayml.plan.facts import Facts
from rayml.plan.parallel import resolve_parallel
from rayml.plan.plan import ClusterPlan, Resources
from rayml.spec.autotune import AutotuneSpec
from rayml.spec.base import Spec
from rayml.spec.job import JobSpec
from rayml.spec.strategy import DdpStrategy
from rayml.spec.train import TrainSpec
from rayml.spec.words import count

AUTO_BATCH_SIZE = 64
SHARED_MEMORY_WORKERS = 4
"""Each of them reads what all have written."""

BLOCKS: dict[str, tuple[str, ...]] = {
    "small_cnn": ("Conv2d",),
    "mlp": ("Linear",),
    "transformer": ("Block",),
    "torchvision": (
        "BasicBlock",
        "Bottleneck",
        "CNBlock",
        "EncoderBlock",
        "SwinTransformerBlock",
        "SwinTransformerBlockV2",
        "MBConv",
        "FusedMBConv",
        "InvertedResidual",
        "ResBottleneckBlock",
        "Fire",
        "Inception",
        "MaxVitLayer",
    ),
    "callable": (),
}
"""Kind of model to the classes whose modules are treated as one: sharded at once, computed again at once."""

AS_WRITTEN = (
    "accumulation",
    "precision",
    "l1",
    "on_nonfinite",
    "activation_checkpointing",
    "compile",
    "channels_last",
    "fused",
    "deterministic",
)
"""Fields of the section that need nothing resolved."""


def resolve_train(job: JobSpec, cluster: ClusterPlan, facts: Facts) -> tuple[dict[str, Any], dict[str, Any], Resources]:
    """Configuration that is part of the key, policy that is not, resources."""
    train = job.train
    assert train is not None and job.model is not None, "checked with the spec"
    workers = resolve_workers(train, cluster)
    check_workers(workers, cluster)
    strategy = dump(train.strategy)
    if train.strategy.kind == "deepspeed":
        train, strategy = resolve_deepspeed(train, facts.deepspeed, workers)
    check_start(job, facts)
    launcher = resolve_launcher(train, cluster)
    if train.strategy.kind == "ddp":
        strategy["transport"] = resolve_transport(job, train, launcher, workers, cluster, facts)
    check_transport(strategy, cluster)
    degrees = resolve_degrees(strategy, workers)
    config = {
        "task": job.task.kind,
        "model": dump(job.model),
        "seed": job.seed,
        "workers": workers,
        "strategy": degrees.strategy,
        "rows": train.rows,
        "epochs": train.epochs,
        "batch_size": resolve_batch_size(train, degrees.data),
        **resolve_recipe(train, job.model.kind, facts),
    }
    check_combination(config)
    config["strategy"] = resolve_parallel(config)
    every_steps = 0 if train.checkpoint.every_steps == "auto" else train.checkpoint.every_steps
    policy = {
        "retries": train.retries,
        "profile": None if train.profile is None else dump(train.profile),
        "gpu_memory_fraction": train.gpu_memory_fraction,
        "launcher": launcher,
        "start": facts.start and facts.start.place,
        "checkpoint": {"every_steps": every_steps, "keep": train.checkpoint.keep},
    }
    cpus_per_worker = max(1, cluster.cpus // workers)
    policy["threads"] = cpus_per_worker if train.threads == "auto" else train.threads
    resources = Resources(
        workers=workers,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=1 if cluster.gpus else 0,
        ray=launcher == "ray_train",
        alone=launcher != "ray_train",
    )
    return config, policy, resources


def resolve_recipe(train: TrainSpec, model: str, facts: Facts) -> dict[str, Any]:
    """What every strategy has to honour, and what is done to the model before."""
    return {
        **{name: getattr(train, name) for name in AS_WRITTEN},
        **{name: dump(getattr(train, name)) for name in ("optimizer", "schedule", "loss", "clip")},
        "start": None if train.start is None else {**dump(train.start), "digest": facts.start and facts.start.digest},
        "freeze": [dump(rule) for rule in train.freeze],
        "adapter": resolve_adapter(train),
        "average": None if train.average is None else dump(train.average),
        "early_stopping": resolve_early_stopping(train),
        "blocks": list(BLOCKS[model] if train.blocks == "auto" else train.blocks),
        "autotune": resolve_autotune(train),
        "distill": None,
        "quantize": None,
        "best": resolve_best(train),
    }


def resolve_best(train: TrainSpec) -> dict[str, str]:
    """By which number of an epoch the kept checkpoint is chosen: the last one where no rows are left to judge by."""
    if train.rows == "train_and_val":
        return {"metric": "epoch", "goal": "max"}
    return {"metric": train.best.metric, "goal": resolve_goal(train.best.metric, train.best.goal)}


def resolve_workers(train: TrainSpec, cluster: ClusterPlan) -> int:
    """One worker per GPU; without a GPU one per two CPUs; one where the strategy is one process."""
    if train.workers != "auto":
        return train.workers
    if train.strategy.kind == "local":
        return 1
    return cluster.gpus or max(1, cluster.cpus // 2)


def check_workers(workers: int, cluster: ClusterPlan) -> None:
    """PlanError where the workers do not fit the cluster."""
    limit, unit = (cluster.gpus, "GPU") if cluster.gpus else (cluster.cpus, "CPU")
    if workers > limit:
        raise PlanError(
            f"{workers} workers, and the cluster has {count(limit, unit)}, one for each",
            where="train.workers",
            hint=f"type --set train.workers={limit} or name a larger --cluster",
        )


def resolve_batch_size(train: TrainSpec, data: int) -> int:
    """Rows of the global batch, which divide into whole micro-batches."""
    if train.batch_size == "auto":
        return auto_batch_size(AUTO_BATCH_SIZE, data, train.accumulation)
    check_batch(train.batch_size, data, train.accumulation)
    return train.batch_size


def resolve_launcher(train: TrainSpec, cluster: ClusterPlan) -> str:
    """Who starts the ranks: this process, a fork server on this machine, or Ray Train."""
    if train.strategy.kind == "local":
        return "inline"
    if train.strategy.kind == "parameter_server":
        return "ray_train"
    if cluster.attach and train.launcher == "processes":
        raise PlanError(
            "processes are forked on the head of a cluster, beside no other node and outside of its accounts",
            where="train.launcher",
            hint="leave launcher out, or write ray_train",
        )
    fitting = "ray_train" if cluster.attach else "processes"
    return fitting if train.launcher == "auto" else train.launcher


def check_start(job: JobSpec, facts: Facts) -> None:
    """PlanError where the weights to start from are those of another model, and nothing says how to rename them."""
    start = None if job.train is None else job.train.start
    if start is None or start.rename or facts.start is None or facts.start.model is None or job.model is None:
        return
    mine, theirs = dump(job.model), facts.start.model
    odd = [key for key in sorted({*mine, *theirs}) if key != "dropout" and mine.get(key) != theirs.get(key)]
    if odd:
        named = ", ".join(f"{key} {mine.get(key)} (there {theirs.get(key)})" for key in odd)
        raise PlanError(
            f"the weights are of another model: {named}",
            where="train.start",
            hint="write the same model section, or say in train.start.rename which tensor goes where",
        )


def resolve_transport(
    job: JobSpec, train: TrainSpec, launcher: str, workers: int, cluster: ClusterPlan, facts: Facts
) -> str:
    """Shared memory where a few workers of this machine have CPUs, and the model is one that is known to be float32."""
    strategy = train.strategy
    assert isinstance(strategy, DdpStrategy) and job.model is not None, "the caller asks for no other"
    if strategy.transport != "auto":
        return strategy.transport
    fits = launcher == "processes" and facts.linux and not cluster.gpus and 1 < workers <= SHARED_MEMORY_WORKERS
    silent = not {"bucket_mb", "static_graph", "compress"} & strategy.model_fields_set
    return "shared_memory" if fits and silent and job.model.kind != "callable" else "network"


def check_transport(strategy: dict[str, Any], cluster: ClusterPlan) -> None:
    """PlanError where shared memory cannot carry what the strategy says."""
    if strategy.get("transport") != "shared_memory":
        return
    found = "the workers have GPUs" if cluster.gpus else f"compress {strategy['compress']} rounds what is sent"
    if cluster.gpus or strategy["compress"] != "none":
        raise PlanError(
            f"{found}, and shared_memory adds up float32 on CPUs and sends nothing",
            where="train.strategy.transport",
            hint="write transport: network",
        )


def resolve_autotune(train: TrainSpec) -> dict[str, Any] | None:
    """What is tried, or None. PlanError where two runs have to be the same."""
    if train.autotune is False:
        return None
    if train.deterministic:
        raise PlanError(
            "which setting is faster may differ from run to run, and deterministic asks for the same bits",
            where="train.autotune",
            hint="run once with autotune and without deterministic, then write the keys that it names into the job",
        )
    return dump(AutotuneSpec() if train.autotune is True else train.autotune)


def resolve_adapter(train: TrainSpec) -> dict[str, Any] | None:
    """The adapter with its factor."""
    if train.adapter is None:
        return None
    adapter = dump(train.adapter)
    if adapter.get("alpha") == "auto":
        adapter["alpha"] = 2.0 * adapter["rank"]
    return adapter


def resolve_early_stopping(train: TrainSpec) -> dict[str, Any] | None:
    """The rule with its goal."""
    if train.early_stopping is None:
        return None
    rule = train.early_stopping
    return {**dump(rule), "goal": resolve_goal(rule.metric, rule.goal)}


def resolve_goal(metric: str, goal: str) -> str:
    """Whether a larger or a smaller value of a metric is better."""
    if goal != "auto":
        return goal
    return "min" if metric.endswith("loss") else "max"


def dump(section: Spec) -> dict[str, Any]:
    """A section as JSON values."""
    return section.model_dump(mode="json")
