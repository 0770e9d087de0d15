"""What no section can know alone: which sections need which, and what fits what."""

from __future__ import annotations

from rayml.spec.job import JobSpec

NEEDS: dict[str, tuple[str, ...]] = {
    "train": ("model",),
    "export": ("train",),
    "evaluate": ("export",),
    "serve": ("export",),
}
"""Section to the sections without which it has nothing to work on."""


def check_job(job: JobSpec) -> list[tuple[str, str]]:
    """Every contradiction between sections, as (path, sentence). Empty where the job holds together."""
    return [*missing_sections(job), *task_misfits(job), *code_misfits(job)]


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
    if job.model is not None and job.model.kind == "small_cnn" and not images:
        problems.append(("model.kind", "small_cnn takes images; write mlp for tabular_classification"))
    return problems


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
