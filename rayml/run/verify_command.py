"""`rayml verify`: what it prints, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayml.artifacts.store import Fault
from rayml.errors import GateError
from rayml.run.records import find, reading
from rayml.run.submitted import as_json
from rayml.run.verify import Verdict, verify_all, verify_origin
from rayml.spec.words import count

OTHER_BYTES = "has other bytes"
"""How `Store.verify` begins its sentence on a file whose sha256 differs."""
HELD = "every file is as it was written, every link of the lineage is there"


def run(name: str | None, storage: str | None, home: Path) -> tuple[dict[str, Any], list[str], GateError | None]:
    """Check one run, or every artifact; the document, the lines for a person, and the error that it ends with."""
    if name is None:
        kept = reading(storage, home)
        checked, faults = verify_all(kept.store)
        verdict, where = Verdict(checked, faults, [], []), storage or str(kept.home.artifacts)
    else:
        kept, folder = find(storage, home, name)
        verdict, where = verify_origin(folder, kept.store), folder.id
    document: dict[str, Any] = {"artifacts": verdict.checked, "faults": [vars(fault) for fault in verdict.faults]}
    if name is not None:
        document |= {"notes": verdict.notes, "submitted": as_json(verdict.submitted)}
    return document, lines_of(verdict, where), error_of(verdict.faults)


def lines_of(verdict: Verdict, where: str) -> list[str]:
    """What was found, in the order in which a person asks."""
    lines = [str(each) for each in verdict.submitted] + verdict.notes
    if verdict.faults:
        return lines
    return [f"{count(verdict.checked, 'artifact')}: {HELD}" if verdict.checked else f"no artifacts in {where}", *lines]


def error_of(faults: list[Fault]) -> GateError | None:
    """One sentence for each fault; None where there is none."""
    if not faults:
        return None
    sentences = "\n".join(f"{fault.artifact}: {fault.file} {fault.what}" for fault in faults)
    changed = sorted({folder_of(fault) for fault in faults if OTHER_BYTES in fault.what})
    first = f"; where a file has other bytes, remove its folder first: {', '.join(changed)}" if changed else ""
    return GateError(sentences, hint=f"run the job again{first}")


def folder_of(fault: Fault) -> str:
    """Where the artifact of a file lies: a folder, or the beginning of the names of its objects."""
    before, name, _ = fault.file.partition(fault.artifact)
    return before + name
