"""What no section can know alone: which sections need which, and what fits what."""

from __future__ import annotations

from rayml.spec.job import JobSpec
from rayml.spec.model import RESNETS, TORCHVISION_MODELS, Model
from rayml.spec.start import finetune_misfits
from rayml.spec.words import nearest, show

NEEDS: dict[str, tuple[str, ...]] = {
    "tune": ("train",),
    "train": ("model",),
    "compress": ("train",),
    "export": ("train",),
    "evaluate": ("export",),
    "serve": ("export",),
}
"""Section to the sections without which it has nothing to work on."""


def check_job(job: JobSpec) -> list[tuple[str, str]]:
    """Every contradiction between sections, as (path, sentence). Empty where the job holds together."""
    return [*missing_sections(job), *task_misfits(job), *finetuning(job), *format_misfits(job), *code_misfits(job)]


def missing_sections(job: JobSpec) -> list[tuple[str, str]]:
    """A section whose input no other section makes."""
    return [
        (section, f"needs a `{needed}` section, and the file has none")
        for section, needs in NEEDS.items()
        for needed in needs
        if getattr(job, section) is not None and getattr(job, needed) is None
    ]


def task_misfits(job: JobSpec) -> list[tuple[str, str]]:
    """A source or model that does not hold what the task is about."""
    source = job.data.source
    images = job.task.kind == "image_classification"
    problems = []
    holds_images = source.kind == "image_folder" or (source.kind == "sklearn" and source.name == "digits")
    holds_numbers = source.kind == "csv" or (source.kind == "sklearn" and source.name != "digits")
    if holds_images and not images:
        problems.append(("task.kind", f"the source holds images; write image_classification, not {job.task.kind}"))
    if holds_numbers and images:
        problems.append(
            ("task.kind", "the source holds numbers; write tabular_classification, not image_classification")
        )
    if job.model is not None and job.model.kind in ("small_cnn", "torchvision") and not images:
        what = f"{job.model.kind} takes images; write mlp or transformer for tabular_classification"
        problems.append(("model.kind", what))
    return problems if job.model is None else [*problems, *model_misfits(job.model)]


def model_misfits(model: Model) -> list[tuple[str, str]]:
    """What one value of a `model` section makes impossible for another."""
    if model.kind == "transformer" and model.width % model.heads:
        what = (
            f"{model.width} does not divide by {model.heads} heads; write {nearest_multiple(model.width, model.heads)}"
        )
        return [("model.width", what)]
    if model.kind != "torchvision":
        return []
    if model.name not in TORCHVISION_MODELS:
        near = nearest(model.name, TORCHVISION_MODELS) or "resnet18"
        what = f"{show(model.name)} is not a classification network of torchvision; did you mean `{near}`?"
        return [("model.name", what)]
    if model.small_images and not model.name.startswith(RESNETS):
        return [("model.small_images", f"fits the ResNets only; leave it out for {model.name}")]
    return []


def nearest_multiple(number: int, of: int) -> int:
    """The multiple of `of` that is nearest to a number, at least one of it."""
    return max(1, round(number / of)) * of


def finetuning(job: JobSpec) -> list[tuple[str, str]]:
    """First weights, frozen ones and adapters that do not go together, or not with the model."""
    if job.model is None or job.train is None:
        return []
    return finetune_misfits(job.model, job.train.start, job.train.freeze, job.train.adapter)


def format_misfits(job: JobSpec) -> list[tuple[str, str]]:
    """Sections that work on the ONNX file where none is written."""
    if job.export is None or "onnx" in job.export.formats:
        return []
    working = [section for section in ("evaluate", "serve") if getattr(job, section) is not None]
    what = f"`{working[0]}` works on the ONNX file; add onnx" if working else ""
    return [("export.formats", what)] if what else []


def code_misfits(job: JobSpec) -> list[tuple[str, str]]:
    """A reference to the user's own function without a folder that it could be in."""
    if job.code is not None:
        return []
    references = []
    if job.data.source.kind == "callable":
        references.append("data.source.function")
    if job.model is not None and job.model.kind == "callable":
        references.append("model.function")
    return [(path, "names a function of yours; say in `code:` which folder it is in") for path in references]
