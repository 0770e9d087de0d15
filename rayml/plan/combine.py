"""What goes together: which strategy takes which part of the recipe. The table in docs/train.md is drawn from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rayml.errors import PlanError

Config = dict[str, Any]

STRATEGIES = ("local", "ddp", "fsdp", "deepspeed", "tensor_parallel", "pipeline", "parameter_server")

IN_PARTS = "cuts the model into parts, and this takes it whole"
HOLDS_PARTS = "holds parts of the matrices, and this optimizer looks at whole ones"
ONCE = "is set up once in a process, and the autotuner sets up one after the other"
OWN_PACE = "lets each worker step at its own pace, and this needs all of them to agree"


@dataclass(frozen=True)
class Feature:
    """A part of the recipe, and the strategies that do not take it."""

    name: str
    where: str
    """The job file's field."""
    used: Callable[[Config], bool]
    """Whether a train step's configuration has it."""
    refused: dict[str, str]
    """Strategy to why not."""
    instead: str
    """What to write."""


def optimizer_in(*kinds: str) -> Callable[[Config], bool]:
    return lambda config: bool(config["optimizer"]["kind"] in kinds)


def averages_by(kind: str) -> Callable[[Config], bool]:
    return lambda config: config["average"] is not None and bool(config["average"]["kind"] == kind)


def has_batch_norm(config: Config) -> bool:
    """Whether the model measures statistics, as far as its section tells."""
    return bool(config["model"]["kind"] == "callable" or config["model"].get("norm") == "batch")


def is_deepspeed(config: Config) -> bool:
    return bool(config["strategy"]["kind"] == "deepspeed")


def shards_from(config: Config, stage: int) -> bool:
    """Whether it is another strategy than deepspeed, or ZeRO from this stage on."""
    return not is_deepspeed(config) or bool(config["strategy"]["zero_stage"] >= stage)


FEATURES = (
    Feature("accumulation", "train.accumulation", lambda config: config["accumulation"] > 1, {}, ""),
    Feature("clip by norm", "train.clip.norm", lambda config: config["clip"]["norm"] is not None, {}, ""),
    Feature(
        "clip by value",
        "train.clip.value",
        lambda config: config["clip"]["value"] is not None,
        {"deepspeed": "clips by norm alone"},
        "write clip.norm, or strategy: {kind: fsdp}",
    ),
    Feature(
        "L1 penalty",
        "train.l1",
        lambda config: bool(config["l1"]),
        {"deepspeed": "has no L1 penalty"},
        "write strategy: {kind: fsdp}",
    ),
    Feature("bf16", "train.precision", lambda config: config["precision"] == "bf16", {}, ""),
    Feature(
        "fp16",
        "train.precision",
        lambda config: config["precision"] == "fp16",
        {"parameter_server": OWN_PACE},
        "write precision: bf16",
    ),
    Feature(
        "skip of non-finite steps",
        "train.on_nonfinite",
        lambda config: (
            config["on_nonfinite"] == "skip" and not (is_deepspeed(config) and config["precision"] != "fp32")
        ),
        {"deepspeed": "leaves out no step in fp32; it does in bf16 and fp16", "parameter_server": OWN_PACE},
        "write on_nonfinite: raise",
    ),
    Feature(
        "EMA",
        "train.average",
        averages_by("ema"),
        {"parameter_server": OWN_PACE},
        "leave it out, or write strategy: {kind: fsdp}",
    ),
    Feature(
        "SWA",
        "train.average",
        averages_by("swa"),
        {"parameter_server": OWN_PACE},
        "leave it out, or write strategy: {kind: fsdp}",
    ),
    Feature(
        "SWA with batch norm",
        "train.average",
        lambda config: averages_by("swa")(config) and has_batch_norm(config),
        {
            "pipeline": "has the model in parts, and swa measures the statistics of batch norm on the whole of it",
            "parameter_server": OWN_PACE,
        },
        "write average: {kind: ema}, or model: {norm: group} where it is torchvision's",
    ),
    Feature(
        "averaged weights with ZeRO stage 3",
        "train.average",
        lambda config: config["average"] is not None and shards_from(config, 3),
        {"deepspeed": "keeps no whole weights with stage 3", "parameter_server": OWN_PACE},
        "write zero_stage: 2, or strategy: {kind: fsdp}",
    ),
    Feature(
        "LAMB, LARS",
        "train.optimizer.kind",
        lambda config: optimizer_in("lamb", "lars")(config) and shards_from(config, 1),
        {"deepspeed": "flattens parameters, and these look at the norm of each; stage 0 does not"},
        "write optimizer: {kind: adamw}, zero_stage: 0, or strategy: {kind: fsdp}",
    ),
    Feature(
        "Adafactor, Muon",
        "train.optimizer.kind",
        lambda config: optimizer_in("adafactor", "muon")(config) and shards_from(config, 1),
        {
            "fsdp": HOLDS_PARTS,
            "tensor_parallel": HOLDS_PARTS,
            "deepspeed": f"{HOLDS_PARTS}; stage 0 does not",
        },
        "write optimizer: {kind: adamw}, or strategy: {kind: ddp}",
    ),
    Feature(
        "activation checkpointing",
        "train.activation_checkpointing",
        lambda config: bool(config["activation_checkpointing"]),
        {},
        "",
    ),
    Feature(
        "compile",
        "train.compile",
        lambda config: bool(config["compile"]),
        {"tensor_parallel": IN_PARTS, "pipeline": IN_PARTS},
        "leave it out",
    ),
    Feature(
        "channels last",
        "train.channels_last",
        lambda config: bool(config["channels_last"]),
        {"fsdp": "takes only weights that are contiguous"},
        "leave it out, or write strategy: {kind: ddp}",
    ),
    Feature(
        "unfreezing after some epochs",
        "train.freeze",
        lambda config: any(rule["until_epoch"] for rule in config["freeze"]),
        {"parameter_server": OWN_PACE},
        "leave until_epoch out, or write strategy: {kind: ddp}",
    ),
    Feature(
        "adapters",
        "train.adapter",
        lambda config: config["adapter"] is not None,
        {"tensor_parallel": IN_PARTS, "pipeline": IN_PARTS},
        "write strategy: {kind: fsdp}",
    ),
    Feature(
        "autotune",
        "train.autotune",
        lambda config: config["autotune"] is not None,
        {"deepspeed": ONCE, "tensor_parallel": ONCE, "pipeline": ONCE, "parameter_server": OWN_PACE},
        "leave it out, or write strategy: {kind: ddp}",
    ),
)


def check_combination(config: Config) -> None:
    """PlanError for the first part of the recipe that the strategy does not take."""
    kind = config["strategy"]["kind"]
    for feature in FEATURES:
        if kind in feature.refused and feature.used(config):
            raise PlanError(
                f"{feature.name} does not go with strategy {kind}: it {feature.refused[kind]}",
                where=feature.where,
                hint=feature.instead,
            )


def combination_table() -> str:
    """The table as Markdown: a row for each part of the recipe, a column for each strategy, the reasons below."""
    reasons: list[str] = []
    lines = [f"| | {' | '.join(STRATEGIES)} |", f"|---|{'---|' * len(STRATEGIES)}"]
    for feature in FEATURES:
        cells = []
        for strategy in STRATEGIES:
            reason = feature.refused.get(strategy)
            if reason is None:
                cells.append("yes")
                continue
            sentence = f"{strategy} {reason}"
            if sentence not in reasons:
                reasons.append(sentence)
            cells.append(f"no ({reasons.index(sentence) + 1})")
        lines.append(f"| {feature.name} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}." for number, reason in enumerate(reasons, start=1)]
    return "\n".join([*lines, "", *notes])
