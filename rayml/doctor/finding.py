"""What a probe says: one line, and what to type where that is not good."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from rayml.errors import BackendError, RaymlError
from rayml.redact.text import redacted

Status = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. No secret stays in it, whoever put it into a sentence."""

    name: str
    status: Status
    found: str
    hint: str = ""
    """What to type; empty where all is well."""
    unreachable: bool = False
    """Whether it is wrong because a cluster, a Kubernetes API or a storage did not answer or refused."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", redacted(self.found))
        object.__setattr__(self, "hint", redacted(self.hint))
        assert self.hint or self.status == "ok", f"{self.name} is {self.status} and does not say what to type"

    def to_json(self) -> dict[str, Any]:
        """As one object of the JSON document."""
        return asdict(self)


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", found)


def warning(name: str, found: str, hint: str) -> Finding:
    """It works, and may be slow or turn wrong."""
    return Finding(name, "warning", found, hint)


def wrong(name: str, found: str, hint: str) -> Finding:
    """A run that needs it fails, or is not safe."""
    return Finding(name, "wrong", found, hint)


def refused(name: str, error: RaymlError) -> Finding:
    """What an error of rayml says, as a finding."""
    found = f"{error.where}: {error.what}" if error.where else error.what
    hint = error.hint or "run the same command again"
    return Finding(name, "wrong", found, hint, unreachable=isinstance(error, BackendError))
