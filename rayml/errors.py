"""Every failure that a person is told about: what was found, where, and what to type next.

Each class carries the exit code that the command line ends with. All of them pickle, because Ray
carries them from a worker to the driver. None holds a secret, whoever put it into the sentence.
"""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass
from typing import Any

from rayml.redact.text import cleaned, redacted

MACHINE_FAULTS = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.EACCES: "name a folder that you may write to, for example by --home, or change its rights",
    errno.EPERM: "name a folder that you may write to, for example by --home, or change its rights",
    errno.EROFS: "name a folder that can be written to, for example by --home",
    errno.ENOTDIR: "a file stands where a folder is needed; name another one, for example by --home",
    errno.EEXIST: "a file stands where a folder is needed; name another one, for example by --home",
    errno.EMFILE: "raise the number of open files: ulimit -n 4096",
    errno.ENFILE: "this machine has too many open files",
    errno.EIO: "the disk or the network behind it fails",
}
"""What the operating system may refuse for reasons that lie outside rayml, with what to do about it."""


class RaymlError(Exception):
    """A failure with a cause that the reader can act on.

    Args:
        what: what was found, and what would fit, as one sentence.
        where: the file and line, step, row or tensor that it was found at.
        hint: what to do or type next.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = redacted(what), redacted(where), redacted(hint)
        super().__init__(self.what)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._state())

    def __str__(self) -> str:
        located = f"{self.where}: {self.what}" if self.where else self.what
        return f"{located}\n  {self.hint}" if self.hint else located

    def to_json(self) -> dict[str, Any]:
        return {"type": type(self).__name__, "exit_code": self.exit_code, **self._state()}

    def _state(self) -> dict[str, Any]:
        return {"what": self.what, "where": self.where, "hint": self.hint}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a file a person wrote."""

    file: str
    line: int | None
    path: str
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.what}" if self.path else f"{place}: {self.what}"


class SpecError(RaymlError):
    """A job or cluster file is wrong. Holds every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        assert problems, "a SpecError without a problem tells the reader nothing"
        self.problems = [Problem(**cleaned(asdict(problem))) for problem in problems]
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return SpecError, (self.problems,)

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "problems": [asdict(problem) for problem in self.problems]}


class PlanError(RaymlError):
    """The file is well formed, but the job cannot be planned as it stands."""

    exit_code = 2


class GateError(RaymlError):
    """The work was done and its result did not pass a gate. What was made is kept."""

    exit_code = 3


class StageError(RaymlError):
    """A step failed while it ran."""

    exit_code = 4


class WorkerLost(StageError):
    """A worker process died, or lost the others. The step can be tried again from what it left in its work folder."""


class BackendError(RaymlError):
    """The cluster could not be reached or did not take the job."""

    exit_code = 5


def machine_failure(error: OSError, where: str = "") -> StageError | None:
    """What the operating system refused, as a sentence; None where the fault may be ours."""
    hint = MACHINE_FAULTS.get(error.errno or 0)
    if hint is None:
        return None
    file = f"{error.filename}: " if error.filename else ""
    return StageError(f"{file}{error.strerror}", where=where, hint=hint)


def _rebuild(kind: type[RaymlError], state: dict[str, Any]) -> RaymlError:
    return kind(state["what"], where=state["where"], hint=state["hint"])


def error_from_json(document: dict[str, Any]) -> RaymlError:
    """The error that `to_json` wrote, with its class and exit code; a plain RaymlError for a class unknown here."""
    kinds = {kind.__name__: kind for kind in (PlanError, GateError, StageError, WorkerLost, BackendError)}
    if document["type"] == "SpecError":
        return SpecError([Problem(**problem) for problem in document["problems"]])
    kind = kinds.get(document["type"], RaymlError)
    return kind(document["what"], where=document.get("where", ""), hint=document.get("hint", ""))
