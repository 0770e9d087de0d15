"""A DeepSpeed document by itself: read, and held to what DeepSpeed 0.19 knows. Problems are collected, not raised."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayml.errors import PlanError
from rayml.plan.deepspeed_keys import DOCUMENT, LEFT_TO_OTHERS, UNDER_ZERO
from rayml.spec.job import JobSpec
from rayml.spec.strategy import DeepSpeedStrategy
from rayml.spec.words import nearest, show

AUTO = "auto"


def read_document(job: JobSpec, base: Path) -> dict[str, Any] | None:
    """What the file of `strategy.config` holds, and None without one. PlanError where it cannot be read."""
    strategy = None if job.train is None else job.train.strategy
    if not isinstance(strategy, DeepSpeedStrategy) or strategy.config is None:
        return None
    try:
        text = (base / strategy.config).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise PlanError(
            f"{strategy.config} cannot be read: {what}",
            where="train.strategy.config",
            hint="the path is relative to the job file",
        ) from None
    return parse_document(text, strategy.config)


def parse_document(text: str, file: str) -> dict[str, Any]:
    """A DeepSpeed JSON file. PlanError with line and column where it is none, and where a key stands twice."""
    try:
        found = json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        comment = text[error.pos :].startswith(("//", "#", "/*"))
        raise PlanError(
            "JSON has no comments" if comment else f"this is not JSON: {error.msg}",
            where=f"{file}:{error.lineno}:{error.colno}",
            hint="delete it" if comment else "the place before it is often the cause: a comma or quote too many or few",
        ) from None
    except ValueError as error:
        raise PlanError(str(error), where=file) from None
    except RecursionError:
        raise PlanError("objects and lists stand in each other more deeply than JSON is read", where=file) from None
    if not isinstance(found, dict):
        raise PlanError(f"a DeepSpeed document is a JSON object, and this is {show(found)}", where=file)
    return found


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. ValueError where a key stands twice: one of the two values would be lost."""
    found = dict(pairs)
    for key in found:
        if sum(name == key for name, _ in pairs) > 1:
            raise ValueError(f"`{key}` stands there twice in one object")
    return found


def no_constant(word: str) -> None:
    """ValueError: NaN and Infinity are not JSON."""
    raise ValueError(f"{word} is no number that JSON has")


@dataclass
class Checked:
    """A document on its way, and what is wrong with it."""

    document: dict[str, Any]
    file: str
    problems: list[PlanError] = field(default_factory=list)

    def problem(self, key: str, what: str, hint: str = "") -> None:
        """Note what is wrong at a key of the document, or of the job where it begins with `train.`."""
        place = key if key.startswith("train.") else f"{self.file}: {key}"
        self.problems.append(PlanError(what, where=place, hint=hint))

    def raise_if_wrong(self) -> None:
        """PlanError with everything that was found."""
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            raise PlanError("\n".join(str(problem) for problem in self.problems))


def check_document(document: dict[str, Any], file: str) -> Checked:
    """The document without what is switched off, `bf16` by its present name, "auto" by DeepSpeed's default where the
    job has no word for it. Problems: unknown keys, what rayml does itself, values of another type."""
    checked = Checked(document, file)
    if "bfloat16" in document:
        document.setdefault("bf16", document.pop("bfloat16"))
    leave_to_others(checked, document, LEFT_TO_OTHERS, "")
    if isinstance(zero := document.get("zero_optimization"), dict):
        leave_to_others(checked, zero, UNDER_ZERO, "zero_optimization.")
    check_keys(checked, document, DOCUMENT, "")
    if checked.problems:
        # What else would be said follows from a document that is not what it was meant to be.
        checked.raise_if_wrong()
    if document.get("gradient_allreduce_op", "mean") != "mean":
        checked.problem(
            "gradient_allreduce_op", "the loss is the mean over the global batch in every strategy", "delete it"
        )
    if document.get("managed_gradient_accumulation") is False:
        checked.problem("managed_gradient_accumulation", "rayml's loop says which micro-batch is the last", "delete it")
    return checked


def leave_to_others(checked: Checked, section: dict[str, Any], others: dict[str, str], path: str) -> None:
    """Delete what is off; a problem with the way to the same end where it is on."""
    for key in [key for key in section if key in others]:
        value = section[key]
        switch = value.get("enabled") if isinstance(value, dict) and "enabled" in value else value
        if not says_nothing(switch):
            checked.problem(f"{path}{key}", f"rayml does not hand this to DeepSpeed: {others[key]}", f"delete `{key}`")
        del section[key]


def says_nothing(switch: object) -> bool:
    """Whether it is off, or a degree of 1."""
    return switch is None or switch is False or switch in (AUTO, {}) or (switch == 1 and switch is not True)


def check_keys(checked: Checked, section: dict[str, Any], known: dict[str, Any], path: str) -> None:
    """Problems for unknown keys and values of a wrong type; what is null or "auto" without our doing is deleted."""
    for key in list(section):
        value = section[key]
        if key not in known:
            near = nearest(key, known)
            meant = f"; did you mean `{near}`?" if near else ""
            checked.problem(f"{path}{key}", f"DeepSpeed knows no such key{meant}")
        elif isinstance(known[key], dict) and isinstance(value, dict) and known[key]:
            check_keys(checked, value, known[key], f"{path}{key}.")
        elif value is None:
            del section[key]
        elif value == AUTO:
            settle_auto(section, known, key)
        elif wanted := mismatch(value, known[key]):
            checked.problem(f"{path}{key}", f"{show(value)} is not {wanted}")


RESOLVED_WITH_THE_JOB = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "stage",
    "enabled",
    "device",
    "nvme_path",
    "buffer_count",
    "buffer_size",
    "sub_group_size",
    "max_in_cpu",
    "stage3_max_reuse_distance",
    "stage3_prefetch_bucket_size",
    "keep_in_fp32_modules",
)


def settle_auto(section: dict[str, Any], known: dict[str, Any], key: str) -> None:
    """DeepSpeed's default for an "auto", but where the job has a word for it."""
    if key in RESOLVED_WITH_THE_JOB:
        return
    if known[key] is None or isinstance(known[key], dict):
        del section[key]
    else:
        section[key] = known[key]


def mismatch(value: object, default: object) -> str | None:
    """What would fit where a value is not of the type of the default; None where it is."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        return None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if isinstance(default, str):
        return None if isinstance(value, str) else "a text"
    if isinstance(default, dict):
        return None if isinstance(value, dict) else "an object"
    if isinstance(default, list):
        return None if isinstance(value, list) else "a list"
    return "a number, a text, true or false" if isinstance(value, dict | list) else None


def agree(checked: Checked, key: str, in_file: Any, field_name: str, in_job: Any) -> Any:
    """The value of whichever place has one, the job's if both; a problem where they differ. None: neither says one."""
    if in_file in (None, AUTO):
        return in_job
    if in_job is not None and in_file != in_job:
        checked.problem(
            key,
            f"{show(in_file)}, and {field_name} in the job is {show(in_job)}",
            'delete one of the two, write "auto" in the file, or make them equal',
        )
    return in_file if in_job is None else in_job
