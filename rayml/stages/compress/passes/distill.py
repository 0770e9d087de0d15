"""`distill`: a smaller network learns from the uncompressed one (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

from typing import Any

from rayml.errors import StageError
from rayml.ml.models import build_model
from rayml.stages.compress.api import Made, Work
from rayml.stages.compress.student import student_of

LIKE_TRAIN = ("optimizer", "schedule", "batch_size")
"""What is as in the train section where nothing is written."""


def run(work: Work) -> Made:
    """Train the student from random weights.

    Raises:
        StageError: the student cannot be derived, has more parameters than its teacher, or would not be trained.
    """
    config = work.config
    student = student_of(config["student"], work.parent.config, work.schema)
    before, after = sizes(work, student)
    if config["student"]["kind"] != "same" and after > before:
        raise StageError(
            f"the student has {after:,} parameters, more than the {before:,} of its teacher",
            where="compress.ladder.student",
            hint="name a smaller one",
        )
    work.note(f"a student of {after:,} parameters learns from a teacher of {before:,}")
    weights = work.train(student, None, training(config))
    facts = {
        "student": student,
        "parameters": {"before": before, "after": after},
        "teachers": ["uncompressed", *config["teachers"]],
        "matched": [kind for kind in ("features", "attention") if config[kind]],
        "temperature": config["temperature"],
        "hard": config["hard"],
        "epochs": config["finetune"]["epochs"],
    }
    return Made(config=student, weights=weights, facts=facts)


def sizes(work: Work, student: dict[str, Any]) -> tuple[int, int]:
    """Parameters of the uncompressed network and of the student."""
    networks = work.original.network(work.schema, work.code), build_model(student, work.schema, work.code)
    before, after = (sum(each.numel() for each in network.parameters()) for network in networks)
    return before, after


def training(config: dict[str, Any]) -> dict[str, Any]:
    """What is not as in the train section."""
    finetune = config["finetune"]
    if finetune["epochs"] == 0:
        raise StageError(
            "a student that is not trained answers at random",
            where="compress.ladder.finetune.epochs",
            hint="write at least 1, or leave it out",
        )
    return {
        "epochs": finetune["epochs"],
        **{key: finetune[key] for key in LIKE_TRAIN if finetune[key] is not None},
        "teachers": config["teachers"],
        "distill": {
            "temperature": config["temperature"],
            "hard": config["hard"],
            "features": matched(config["features"]),
            "attention": matched(config["attention"]),
        },
    }


def matched(section: dict[str, Any] | None) -> dict[str, Any] | None:
    """A `features` or `attention` section with its layers in pairs of teacher and student."""
    if section is None or section["layers"] == "auto":
        return section
    return {**section, "layers": [list(pair) for pair in section["layers"].items()]}
