"""Strategy deepspeed: job and DeepSpeed document brought together, every "auto" a value, contradictions refused."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from rayml.plan.deepspeed_check import AUTO, Checked, agree, check_document
from rayml.plan.deepspeed_offload import settle_offload
from rayml.plan.deepspeed_recipe import settle_optimizer, settle_precision, settle_scheduler
from rayml.plan.degrees import auto_batch_size
from rayml.spec.strategy import DeepSpeedStrategy
from rayml.spec.train import TrainSpec
from rayml.spec.words import count, show

AUTO_BATCH_SIZE = 64
AUTO_STAGE = 2
"""Optimizer state and gradients shared out, at the same communication as without (arXiv 1910.02054, section 7)."""

FULL_BATCH, ROWS, PARTS = "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"
CLIP = "gradient_clipping"

ELEMENTWISE = ("sgd", "adam", "adamw", "lion")
"""Optimizers that may see many parameters as one flat tensor. The others look at the norm or the shape of each."""


def resolve_deepspeed(
    train: TrainSpec, document: dict[str, Any] | None, workers: int
) -> tuple[TrainSpec, dict[str, Any]]:
    """Job and document as one.

    Args:
        document: what `strategy.config` holds (rayml.plan.deepspeed_check.read_document), or None without one.
        workers: world size.

    Returns:
        The train section with what the document says where the job says nothing, and the strategy section with
        `zero_stage`, `offload` and `document`, which is what `deepspeed.initialize` gets.

    Raises:
        PlanError: unknown keys, contradictions with both places and values, a batch that does not divide, and what
            DeepSpeed or rayml cannot do. All that was found, the most important first.
    """
    strategy = train.strategy
    assert isinstance(strategy, DeepSpeedStrategy), "the caller asks for no other"
    checked = check_document({} if document is None else deepcopy(document), strategy.config or "train.strategy")
    found = checked.document
    optimizer = settle_optimizer(checked, train)
    settle_scheduler(checked, train, optimizer.lr)
    changes = {
        "optimizer": optimizer,
        "precision": settle_precision(checked, train),
        "clip": train.clip.model_copy(update={"norm": settle_clip(checked, train)}),
        **settle_batch(checked, train, workers),
    }
    resolved = train.model_copy(update=changes)
    stage = settle_stage(checked, strategy, document is not None)
    offload = settle_offload(checked, resolved, stage)
    check_recipe(checked, resolved, stage)
    checked.raise_if_wrong()
    zero = found["zero_optimization"]
    zero["stage"] = stage
    if stage in (1, 2) and offload == "none" and not needs_norm(resolved):
        # Nobody reads it, and it takes one of three messages of a step.
        zero.setdefault("compute_grad_norm", False)
    # The optimizers are torch's, each held to its paper by a test, and DeepSpeed cannot know that.
    found["zero_allow_untested_optimizer"], found["zero_force_ds_cpu_optimizer"] = True, False
    # It would wait for the GPU at every step to know the time.
    found.setdefault("timers", {}).setdefault("throughput", {"enabled": False})
    return resolved, {"kind": "deepspeed", "zero_stage": stage, "offload": offload, "document": found}


def settle_batch(checked: Checked, train: TrainSpec, workers: int) -> dict[str, int]:
    """Batch size and accumulation; all three factors into the document. A problem where they do not multiply."""
    found = checked.document
    in_job = None if train.batch_size == AUTO else train.batch_size
    batch = agree(checked, FULL_BATCH, found.get(FULL_BATCH), "train.batch_size", in_job)
    said = train.accumulation if "accumulation" in train.model_fields_set else None
    parts = agree(checked, PARTS, found.get(PARTS), "train.accumulation", said)
    rows = None if found.get(ROWS) in (None, AUTO) else found[ROWS]
    for name, each in ((FULL_BATCH, batch), (ROWS, rows), (PARTS, parts)):
        if each is not None and (not isinstance(each, int) or each < 1):
            checked.problem(name, f"{show(each)} is not a whole number from 1")
            return {}
    if batch is None:
        batch = rows * (parts or 1) * workers if rows else auto_batch_size(AUTO_BATCH_SIZE, workers, parts or 1)
    if parts is None:
        parts = max(1, batch // (rows * workers)) if rows else 1
    rows = rows or max(1, batch // (parts * workers))
    if batch != rows * parts * workers:
        checked.problem(
            FULL_BATCH,
            f"{FULL_BATCH} {batch} is not {ROWS} {rows} x {PARTS} {parts} x {count(workers, 'worker')} "
            f"= {rows * parts * workers}",
            "what fits: " + "; ".join(fitting(batch, rows, parts, workers)),
        )
    found.update({FULL_BATCH: batch, ROWS: rows, PARTS: parts})
    return {"batch_size": batch, "accumulation": parts}


def fitting(batch: int, rows: int, parts: int, workers: int) -> list[str]:
    """The nearest values of each factor that make the product true while the others stay."""
    unit = parts * workers
    batches = sorted({max(1, batch // unit) * unit, (batch // unit + 1) * unit, rows * unit})
    fits = [f"{FULL_BATCH} {each} with {ROWS} {each // unit}" for each in batches]
    for name, others in ((PARTS, rows * workers), ("train.workers", rows * parts)):
        if batch % others == 0:
            fits.append(f"{name} {batch // others}")
    return fits


def settle_clip(checked: Checked, train: TrainSpec) -> float | None:
    """Largest norm of the gradients. Where nobody says one there is none, and not DeepSpeed's 1.0."""
    in_file = checked.document.get(CLIP)
    norm = agree(checked, CLIP, in_file, "train.clip.norm", train.clip.norm)
    checked.document[CLIP] = norm or 0.0
    return norm or None


def settle_stage(checked: Checked, strategy: DeepSpeedStrategy, has_file: bool) -> int:
    """ZeRO stage. A document without one means 0, as in DeepSpeed."""
    zero = checked.document.setdefault("zero_optimization", {})
    in_job = None if strategy.zero_stage == AUTO else strategy.zero_stage
    stage = agree(checked, "zero_optimization.stage", zero.get("stage"), "train.strategy.zero_stage", in_job)
    if stage is None:
        return 0 if has_file else AUTO_STAGE
    if stage not in (0, 1, 2, 3):
        checked.problem("zero_optimization.stage", f"{stage} is not 0, 1, 2 or 3")
    return int(stage)


def needs_norm(train: TrainSpec) -> bool:
    """Whether the norm of all gradients decides something: it is clipped, or tells that a step has to be left out."""
    return train.clip.norm is not None or train.precision != "fp32" or train.on_nonfinite == "skip"


def check_recipe(checked: Checked, train: TrainSpec, stage: int) -> None:
    """Problems where the recipe asks for what the strategy cannot do."""
    if train.clip.value is not None:
        checked.problem("train.clip.value", "DeepSpeed clips by norm alone", "write clip.norm, or strategy ddp or fsdp")
    if train.l1:
        checked.problem("train.l1", "DeepSpeed takes no L1 penalty", "write strategy ddp or fsdp")
    if train.on_nonfinite == "skip" and train.precision == "fp32" and stage == 0:
        checked.problem(
            "train.on_nonfinite", "ZeRO stage 0 leaves out no step in fp32", "write raise, or a zero_stage from 1 to 3"
        )
    if train.precision != "fp32" and stage == 0:
        # Held against ours: it does not scale the loss, and its optimizer takes a step with no gradient first.
        checked.problem(
            "train.precision",
            f"ZeRO stage 0 of DeepSpeed 0.19 trains otherwise in {train.precision} than stages 1 to 3 do",
            "write zero_stage: 1, which sends as much, or strategy ddp",
        )
    if stage and train.optimizer.kind not in ELEMENTWISE:
        checked.problem(
            "train.optimizer.kind",
            f"{train.optimizer.kind} needs whole parameters, and ZeRO stage {stage} flattens and shards them",
            f"write one of {', '.join(ELEMENTWISE)}, or zero_stage: 0",
        )
    if stage == 3 and train.average is not None:
        checked.problem("train.average", "ZeRO stage 3 keeps no whole weights to average", "write zero_stage: 2")
