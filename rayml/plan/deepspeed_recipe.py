"""Optimizer, schedule and precision of a DeepSpeed document, brought together with those of the job."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from rayml.plan.deepspeed_check import AUTO, Checked, agree, check_keys
from rayml.plan.deepspeed_keys import OPTIMIZER_PARAMS, SCHEDULERS
from rayml.spec.optimizer import Optimizer
from rayml.spec.train import TrainSpec
from rayml.spec.words import listed, nearest, show

KINDS = {"adam": "adamw", "adamw": "adamw", "lion": "lion", "sgd": "sgd"}
"""DeepSpeed's optimizers by what they do. Its Adam is AdamW unless `adam_w_mode` is false."""

OURS = ("lr", "betas", "eps", "weight_decay", "momentum", "nesterov")
ONLY_SO: dict[str, Any] = {"bias_correction": True, "amsgrad": False, "dampening": 0.0}
"""Parameters that may be written, at these values."""

NEEDS_DATA = "how many steps there are is known when the data is"
COUNTS_BY_ITSELF = (
    "write a number, or in place of the scheduler train.schedule: {kind: linear, warmup: {fraction: 0.1}}"
)


def settle_optimizer(checked: Checked, train: TrainSpec) -> Optimizer:
    """The optimizer as a section of rayml: torch's kernels do the same, need no compiler, and keep one form of state.

    The document's optimizer is taken out of it.
    """
    section = checked.document.pop("optimizer", None)
    in_job = train.optimizer if "optimizer" in train.model_fields_set else None
    if not section or section.get("type") is None:
        return train.optimizer
    name, params = str(section["type"]), section.get("params", {})
    kind = KINDS.get(name.lower())
    if kind is None:
        checked.problem(
            "optimizer.type",
            f"{show(name)} is not run by rayml",
            f"write {listed(['AdamW', 'Adam', 'Lion', 'SGD'])}, or one of rayml's under train.optimizer",
        )
        return train.optimizer
    before = len(checked.problems)
    check_params(checked, params, kind)
    if kind == "adamw" and name.lower() == "adam" and params.get("adam_w_mode") is False:
        kind = "adam"
    if in_job is not None:
        compare(checked, kind, name, params, in_job)
        return in_job
    if len(checked.problems) > before:
        return train.optimizer
    values = {**OPTIMIZER_PARAMS["adamw" if kind == "adam" else kind], **said(params)}
    if kind in ("adam", "adamw") and "weight_decay" not in said(params) and not params.get("torch_adam"):
        values["weight_decay"] = 0.0
    try:
        found: Optimizer = TypeAdapter(Optimizer).validate_python(
            {"kind": kind, **{key: value for key, value in values.items() if key in fields_of(kind)}}
        )
    except ValidationError as error:
        first = error.errors()[0]
        checked.problem(f"optimizer.params.{first['loc'][1]}", f"{show(first['input'])}: {first['msg']}")
        return train.optimizer
    return found


def fields_of(kind: str) -> tuple[str, ...]:
    """The parameters of a document's optimizer that rayml's has, too."""
    known = OPTIMIZER_PARAMS["adamw" if kind == "adam" else kind]
    return tuple(key for key in OURS if key in known)


def said(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters without what is "auto"."""
    return {key: value for key, value in params.items() if value != AUTO}


def check_params(checked: Checked, params: dict[str, Any], kind: str) -> None:
    """Problems for parameters that are unknown or ask for another rule."""
    if "max_grad_norm" in params:
        checked.problem("optimizer.params.max_grad_norm", "DeepSpeed takes it as `gradient_clipping`", "move it there")
    known = OPTIMIZER_PARAMS[kind]
    check_keys(checked, {key: params[key] for key in params if key != "max_grad_norm"}, known, "optimizer.params.")
    for key, value in ONLY_SO.items():
        if params.get(key, value) not in (value, AUTO):
            checked.problem(f"optimizer.params.{key}", f"{show(params[key])} is another rule", f"write {show(value)}")


def compare(checked: Checked, kind: str, name: str, params: dict[str, Any], in_job: Optimizer) -> None:
    """Problems where the document's optimizer is not the job's."""
    if kind != in_job.kind:
        agree(checked, "optimizer.type", name, "train.optimizer.kind", in_job.kind)
        return
    for key in fields_of(kind):
        value = getattr(in_job, key)
        agree(
            checked,
            f"optimizer.params.{key}",
            params.get(key),
            f"train.optimizer.{key}",
            list(value) if isinstance(value, tuple) else value,
        )


def settle_scheduler(checked: Checked, train: TrainSpec, lr: float) -> None:
    """The document's schedule with every "auto" a value. It is DeepSpeed's own that runs."""
    section = checked.document.get("scheduler")
    if not section or section.get("type") is None:
        checked.document.pop("scheduler", None)
        return
    name = str(section["type"])
    if "schedule" in train.model_fields_set:
        agree(checked, "scheduler.type", name, "train.schedule.kind", train.schedule.kind)
    if name not in SCHEDULERS:
        near = nearest(name, SCHEDULERS, likeness=0.4)
        meant = f"; did you mean `{near}`?" if near else ""
        checked.problem(
            "scheduler.type", f"{show(name)} is not {listed(list(SCHEDULERS))}{meant}", "or write a train.schedule"
        )
        return
    params = section.setdefault("params", {})
    if params.get("warmup_max_lr", AUTO) == AUTO and "warmup_max_lr" in SCHEDULERS[name]:
        params["warmup_max_lr"] = lr
    for key, default in SCHEDULERS[name].items():
        if key == "total_num_steps" and params.get(key) in (None, AUTO):
            checked.problem(f"scheduler.params.{key}", f"{show(params.get(key))}, and {NEEDS_DATA}", COUNTS_BY_ITSELF)
        elif params.get(key) == AUTO and (default is None or key == "warmup_num_steps"):
            checked.problem(f"scheduler.params.{key}", '"auto" has no value here', COUNTS_BY_ITSELF)
    numbers = {key: 0.0 if default is None else default for key, default in SCHEDULERS[name].items()}
    check_keys(checked, params, numbers, "scheduler.params.")


def settle_precision(checked: Checked, train: TrainSpec) -> str:
    """fp32, bf16 or fp16; the switches of the document's sections are set to it."""
    found = checked.document
    switches = {name: found[name].get("enabled", False) for name in ("bf16", "fp16") if name in found}
    on = [name for name, value in switches.items() if value is True]
    off = [name for name, value in switches.items() if value is False]
    if len(on) > 1:
        checked.problem("fp16.enabled", "both fp16 and bf16 are on", "switch one of them off")
    in_job = train.precision if "precision" in train.model_fields_set else None
    in_file = on[0] if on else None
    precision: str = agree(checked, f"{in_file}.enabled", in_file, "train.precision", in_job) or "fp32"
    if precision in off:
        checked.problem(f"{precision}.enabled", f"false, and train.precision in the job is {precision}")
    for name in ("bf16", "fp16"):
        if name in found or name == precision:
            found.setdefault(name, {})["enabled"] = name == precision
    return precision
