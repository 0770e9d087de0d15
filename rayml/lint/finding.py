"""What a check has to say about a manifest: as a remark at a path, and as a finding at a line of a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

from rayml.redact.text import redacted
from rayml.spec.words import shorten

Severity = Literal["error", "warning"]
"""An error is refused by Kubernetes or KubeRay, opens the cluster or shows a secret; a warning hardens further."""

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Remark:
    """What one check found, before the file and the line are known."""

    path: Path
    rule: str
    what: str
    hint: str = ""
    severity: Severity = "error"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong in a manifest, with the place that a person has to change."""

    file: str
    line: int | None
    path: str
    rule: str
    what: str
    hint: str = ""
    severity: Severity = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.what}" if self.path else f"{place}: {self.what}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def order(self) -> tuple[str, int, str, str, str]:
        """By file and line, then by what is said, so that two runs print the same text."""
        return self.file, self.line or 0, self.path, self.rule, self.what


def dotted(path: Path) -> str:
    """`spec.workerGroupSpecs.0.groupName`; a key on one line, and no secret that stands in place of a key."""
    return ".".join(harmless(str(part)) for part in path)


@lru_cache(4096)
def harmless(text: str) -> str:
    """A text of a manifest for a sentence. What is cut in the middle no longer has a secret's shape, so hide first."""
    return shorten(redacted(text))
