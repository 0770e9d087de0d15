"""Whether what is left is what was written: every checksum, and every link of the lineage."""

from __future__ import annotations

from rayml.artifacts.store import KEY_CHARACTERS, Artifact, Fault, Store
from rayml.observe.runs import RunFolder


def verify_all(store: Store) -> tuple[int, list[Fault]]:
    """Check every artifact of a store; how many there are, and what is wrong."""
    checked, faults = _verify(list(store.artifacts()), store)
    return checked, store.unreadable() + faults


def verify_run(run: RunFolder, store: Store) -> tuple[int, list[Fault]]:
    """Check the artifacts of one run; a step that it never made is a fault."""
    found, faults = [], []
    for step in run.plan().steps:
        artifact = store.find(step.name, step.key)
        if artifact is not None:
            found.append(artifact)
            continue
        never_made = Fault(f"{step.name}/{step.key[:KEY_CHARACTERS]}", "manifest.json", "is missing")
        faults += store.damage(step.name, step.key) or [never_made]
    checked, more = _verify(found, store)
    return checked, faults + more


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
        if store.find(kind, key) is None
    ]
