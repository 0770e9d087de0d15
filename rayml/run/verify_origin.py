"""Whether a run was made with what it says: one image, the code that its keys were worked out for, the plan that was
submitted.

Each check compares two records that were written by different processes: the plan and the submission by the machine
that submitted, the manifests where the steps ran, and the files that lie in the run's folder now.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rayml.artifacts.manifest import Artifact
from rayml.artifacts.store import KEY_CHARACTERS, Fault
from rayml.backends.ray.packing import CODE_FOLDER
from rayml.observe.runs import RunFolder
from rayml.observe.submissions import Submission
from rayml.plan.plan import Plan
from rayml.run.provenance import modules_digest
from rayml.run.submitted import folder_digest, plan_digest

SHOWN = 12
"""Hex digits of a digest that people see."""
Notes = list[str]


def origin_faults(run: RunFolder, artifacts: list[Artifact], submitted: list[Submission]) -> Iterator[Fault]:
    """What does not fit together, and what to do about it."""
    plan, own = run.plan(), made_by(run, artifacts)
    yield from image_faults(run.id, planned_image(plan), own)
    yield from stage_code_faults(plan, own)
    yield from user_code_faults(run, own)
    yield from submission_faults(run, plan, submitted)


def origin_notes(run: RunFolder, artifacts: list[Artifact], submitted: list[Submission]) -> Notes:
    """What could not be checked, and why."""
    plan, own = run.plan(), made_by(run, artifacts)
    images = {each.manifest.made_with["image"] for each in own if "image" in each.manifest.made_with}
    notes = [f"image: {image}" for image in sorted(images)]
    if own and not images:
        notes.append("image: not known; only a cluster file of kind kuberay tells its pods which one they run in")
    cached = [each for each in artifacts if each.manifest.run != run.id]
    if cached:
        others = ", ".join(f"{each.manifest.kind} by {each.manifest.run}" for each in cached)
        notes.append(f"made by other runs, whose image and code are checked with them: {others}")
    if [each for each in own if not each.manifest.made_with]:
        notes.append("code: an older rayml made a part of this run and did not say with which code")
    if plan.code is not None and not copy_of_code(run).is_dir():
        notes.append(f"code: the run keeps no copy of {plan.code}; `rayml submit` keeps one, `rayml run` does not")
    if not submitted:
        notes.append("submitted: no record; an older rayml started it, or a machine that saw no storage")
    return notes


def made_by(run: RunFolder, artifacts: list[Artifact]) -> list[Artifact]:
    """The artifacts that this very run made."""
    return [each for each in artifacts if each.manifest.run == run.id]


def planned_image(plan: Plan) -> str | None:
    """The image of the cluster file that the plan was made for."""
    image = None if plan.origin is None else plan.origin.cluster.get("image")
    return None if image is None else str(image)


def image_faults(run: str, planned: str | None, own: list[Artifact]) -> Iterator[Fault]:
    """All steps of a run were made in one image: the planned one."""
    ran = {each.manifest.kind: each.manifest.made_with["image"] for each in own if "image" in each.manifest.made_with}
    expected = planned or next(iter(ran.values()), None)
    for kind, image in ran.items():
        if image != expected:
            other = "the plan says" if planned else "another step was made in"
            what = f"of this step is {image}, and {other} {expected}: submit the job again under a new name, --run NAME"
            yield Fault(f"{run}, {kind}", "image", what)


def stage_code_faults(plan: Plan, own: list[Artifact]) -> Iterator[Fault]:
    """The code of rayml that ran is the code that the key was worked out for."""
    planned = {} if plan.origin is None else plan.origin.facts.get("code", {})
    for each in own:
        kind, ran = each.manifest.kind, each.manifest.made_with.get("stage_code")
        if ran is not None and kind in planned and ran != planned[kind]:
            yield Fault(
                name_of(each),
                "code of rayml",
                f"was {ran[:SHOWN]} where it ran and {planned[kind][:SHOWN]} where it was planned, so its key speaks "
                "of other code: build the image from the checkout that you submit from, and submit again",
            )


def user_code_faults(run: RunFolder, own: list[Artifact]) -> Iterator[Fault]:
    """All steps saw the same modules of the user's, and the copy in the run's folder is what they saw."""
    seen = [(each, each.manifest.made_with["user_code"]) for each in own if "user_code" in each.manifest.made_with]
    copy = copy_of_code(run)
    expected = modules_digest(copy) if copy.is_dir() else next((ran for _, ran in seen), None)
    for artifact, ran in seen:
        if ran != expected:
            other = f"the copy in {copy} is" if copy.is_dir() else "another step of this run was made with"
            yield Fault(
                name_of(artifact),
                "your code",
                f"was {ran[:SHOWN]} when it was made, and {other} {str(expected)[:SHOWN]}: somebody changed it "
                "meanwhile; submit the job again under a new name, with --run NAME",
            )


def submission_faults(run: RunFolder, plan: Plan, submitted: list[Submission]) -> Iterator[Fault]:
    """What a run has is what somebody submitted. A start of a schedule has a plan of its own, and the same code."""
    of_this_run = [each for each in submitted if each.run == run.id]
    if of_this_run and plan_digest(plan) not in {each.plan for each in of_this_run}:
        yield Fault(
            run.id,
            "plan.json",
            "is none of the plans that were submitted under this name: it was changed, or a run of that name was "
            "there before; submit the job again under a new name, with --run NAME",
        )
    sent, copy = {each.code for each in submitted if each.code is not None}, copy_of_code(run)
    if sent and copy.is_dir() and folder_digest(copy) not in sent:
        yield Fault(run.id, CODE_FOLDER, "holds other files than were submitted: submit the job again")


def copy_of_code(run: RunFolder) -> Path:
    """Where a run on a cluster keeps the user's files."""
    return run.path / CODE_FOLDER


def name_of(artifact: Artifact) -> str:
    return f"{artifact.manifest.kind}/{artifact.manifest.key[:KEY_CHARACTERS]}"
