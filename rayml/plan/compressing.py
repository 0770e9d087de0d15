"""The compress step: every "auto" of the ladder resolved, and what its inner trainings are made from."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from rayml.errors import PlanError
from rayml.plan.facts import Facts, code_of
from rayml.plan.plan import ClusterPlan, Resources
from rayml.plan.training import BLOCKS, dump, resolve_train
from rayml.spec.compress import CompressSpec, Distill, Pass
from rayml.spec.export import ParitySpec
from rayml.spec.job import JobSpec
from rayml.spec.strategy import DdpStrategy

FINETUNE_PART = 3
"""A pass that changes the network trains for a third of the epochs that training took."""
TRAINS_ANYTHING = ("local", "ddp", "fsdp")
"""Strategies that take a network whatever passes have done to it."""
LIBRARIES = {"prune": ("torch_pruning", "torch-pruning")}
"""What has to be installed for a pass: module and package."""


def resolve_compress(
    job: JobSpec, cluster: ClusterPlan, facts: Facts
) -> tuple[dict[str, Any], dict[str, Any], Resources]:
    """Configuration that is part of the key, policy that is not, resources."""
    section = job.compress
    assert section is not None and job.train is not None, "checked with the spec"
    check_budget(section)
    check_libraries(section)
    train, policy, resources = resolve_train(with_plain_strategy(job), cluster, facts)
    config = {
        "name": job.name,
        "seed": job.seed,
        "opset": 20 if job.export is None or job.export.opset == "auto" else job.export.opset,
        "ladder": [resolve_pass(each, train["epochs"], facts) for each in section.ladder],
        "min_gain": section.min_gain,
        "budget": dump(section.budget),
        "prefer": resolve_prefer(section),
        "train": plain_training(train),
        "train_code": code_of("train", job, facts),
        "blocks": {kind: list(names) for kind, names in BLOCKS.items()},
    }
    parity = ParitySpec() if job.export is None else job.export.parity
    teachers = {weights.digest: weights.place for weights in facts.teachers.values()}
    return (
        config,
        {"train": {**policy, "start": None}, "teachers": teachers, "tolerance": parity.tolerance},
        resources.model_copy(update={"alone": not resources.ray}),
    )


def with_plain_strategy(job: JobSpec) -> JobSpec:
    """The job with a strategy that can train a network whose layers were changed: ddp, where its own is another."""
    assert job.train is not None, "the caller looked"
    if job.train.strategy.kind in TRAINS_ANYTHING:
        return job
    train = job.train.model_copy(update={"strategy": DdpStrategy(kind="ddp")})
    return job.model_copy(update={"train": train})


def plain_training(train: dict[str, Any]) -> dict[str, Any]:
    """What the inner trainings take over: not the first weights, adapters and frozen parts of the job's own."""
    return {**train, "start": None, "freeze": [], "adapter": None, "average": None, "autotune": None}


def resolve_pass(section: Pass, epochs: int, facts: Facts) -> dict[str, Any]:
    """A pass with its numbers. What depends on the layers or the processor is left to the pass, which says so."""
    config = dump(section)
    if isinstance(section, Distill):
        config["teachers"] = [facts.teachers[run].digest for run in section.teachers]
    if not trains(config):
        config.pop("finetune", None)
    else:
        written = config["finetune"]["epochs"]
        whole = epochs if isinstance(section, Distill) else max(1, epochs // FINETUNE_PART)
        config["finetune"]["epochs"] = whole if written == "auto" else written
    return config


def trains(config: dict[str, Any]) -> bool:
    """Whether a pass trains the network that it made."""
    return "finetune" in config and (config["kind"] != "quantize" or config["scheme"] == "int8_qat")


def resolve_prefer(section: CompressSpec) -> str:
    """size or latency."""
    if section.prefer != "auto":
        return section.prefer
    return "latency" if section.budget.p50_ms or section.budget.p95_ms else "size"


def check_budget(section: CompressSpec) -> None:
    """PlanError where no model could keep to the budget."""
    budget = section.budget
    if budget.p50_ms is not None and budget.p95_ms is not None and budget.p95_ms < budget.p50_ms:
        raise PlanError(
            f"p95_ms: {budget.p95_ms:g} is below p50_ms: {budget.p50_ms:g}, which no 95th percentile is",
            where="compress.budget",
            hint="leave p50_ms out, or write a larger p95_ms",
        )
    if budget.ram is not None and budget.size is not None and budget.ram < budget.size:
        raise PlanError(
            f"ram: {budget.ram:,} bytes is below size: {budget.size:,}, and a model that runs is held in memory",
            where="compress.budget",
            hint="write a larger ram, or a smaller size",
        )


def check_libraries(section: CompressSpec) -> None:
    """PlanError where a pass needs a library that is not installed."""
    for place, each in enumerate(section.ladder):
        module, package = LIBRARIES.get(each.kind, ("", ""))
        if module and find_spec(module) is None:
            raise PlanError(
                f"{each.kind} needs {package}, which is not installed",
                where=f"compress.ladder.{place}",
                hint="pip install 'rayml[compress]'",
            )
