"""Whether what is left is what was written: every checksum, every link of the lineage, and what a run was made with."""

from __future__ import annotations

from dataclasses import dataclass

from rayml.artifacts.manifest import Artifact
from rayml.artifacts.store import KEY_CHARACTERS, Fault, Store
from rayml.observe.runs import RunFolder
from rayml.observe.submissions import Submission, submissions
from rayml.run.verify_origin import origin_faults, origin_notes


@dataclass(frozen=True)
class Verdict:
    """What was found of one run."""

    checked: int
    """Artifacts whose files were read again."""
    faults: list[Fault]
    notes: list[str]
    """What could not be checked, and what is known of the image and the code."""
    submitted: list[Submission]


def verify_all(store: Store) -> tuple[int, list[Fault]]:
    """Check every artifact of a store; how many there are, and what is wrong."""
    checked, faults = _verify(list(store.artifacts()), store)
    return checked, store.unreadable() + faults


def verify_run(run: RunFolder, store: Store) -> tuple[int, list[Fault]]:
    """Check the artifacts of one run; a step that it never made is a fault."""
    found, faults = _artifacts_of(run, store)
    checked, more = _verify(found, store)
    return checked, faults + more


def verify_origin(run: RunFolder, store: Store) -> Verdict:
    """As `verify_run`; and that image, code and plan are those that the run was planned with and submitted with."""
    checked, faults = verify_run(run, store)
    found, _ = _artifacts_of(run, store)
    known = submissions(run.path)
    return Verdict(
        checked=checked,
        faults=[*faults, *origin_faults(run, found, known)],
        notes=origin_notes(run, found, known),
        submitted=known,
    )


def _artifacts_of(run: RunFolder, store: Store) -> tuple[list[Artifact], list[Fault]]:
    """The artifact of each step of a run, and what is wrong where there is none."""
    found, faults = [], []
    for step in run.plan().steps:
        artifact = store.look(step.name, step.key)
        if artifact is not None:
            found.append(artifact)
            continue
        never_made = Fault(f"{step.name}/{step.key[:KEY_CHARACTERS]}", "manifest.json", "is missing")
        faults += store.damage(step.name, step.key) or [never_made]
    return found, faults


def _verify(artifacts: list[Artifact], store: Store) -> tuple[int, list[Fault]]:
    faults = [fault for artifact in artifacts for fault in (*store.verify(artifact), *_broken_links(artifact, store))]
    return len(artifacts), faults


def _broken_links(artifact: Artifact, store: Store) -> list[Fault]:
    """The inputs that an artifact was made from and that are no longer there."""
    manifest = artifact.manifest
    name = f"{manifest.kind}/{manifest.key[:KEY_CHARACTERS]}"
    return [
        Fault(name, f"{kind}/{key[:KEY_CHARACTERS]}", "was its input and is gone or damaged")
        for kind, key in manifest.inputs.items()
        if store.look(kind, key) is None
    ]
