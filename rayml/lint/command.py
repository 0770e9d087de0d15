"""What `rayml lint` prints, and the exit code that it ends with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rayml.errors import PlanError
from rayml.lint.finding import Finding
from rayml.lint.gates import parse
from rayml.lint.lint import lint
from rayml.lint.schemas import Kinds
from rayml.spec.words import count

EXIT_ERRORS = 2


def run(paths: list[str], schemas: str | Kinds | None, gates: list[str], as_json: bool) -> int:
    """Lints and prints. 0 where no finding is an error, 2 otherwise.

    Args:
        schemas: a folder of definitions, or what a cluster knows.
    Raises:
        PlanError: nothing to read, a path or schema folder that does not exist, or a gate that KubeRay does not have.
    """
    if not paths:
        raise PlanError("nothing to lint", hint="name a manifest, a folder of them, or `-` for standard input")
    findings = lint(paths, schemas=Path(schemas) if isinstance(schemas, str) else schemas, gates=parse(gates))
    sys.stdout.write(f"{to_json(findings) if as_json else to_text(findings)}\n")
    return EXIT_ERRORS if any(finding.severity == "error" for finding in findings) else 0


def to_text(findings: list[Finding]) -> str:
    """Each finding with its hint below it, then how many there are."""
    lines = [line for finding in findings for line in _lines(finding)]
    errors = sum(finding.severity == "error" for finding in findings)
    return "\n".join([*lines, f"{count(errors, 'error')}, {count(len(findings) - errors, 'warning')}"])


def _lines(finding: Finding) -> list[str]:
    mark = "warning: " if finding.severity == "warning" else ""
    place = str(finding).removesuffix(finding.what)
    first = f"{place}{mark}{finding.what} [{finding.rule}]"
    return [first, f"  {finding.hint}"] if finding.hint else [first]


def to_json(findings: list[Finding]) -> str:
    """One JSON document with every finding."""
    return json.dumps({"findings": [finding.to_json() for finding in findings]}, indent=2, ensure_ascii=False)
