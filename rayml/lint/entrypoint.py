"""Whether the entrypoint of a RayJob is one argv, quoted once, and nothing that a shell would act on.

KubeRay puts the entrypoint into a command for `bash -c` (`BuildJobSubmitCommand`, ray-operator/controllers/ray/common/
job.go). What `shlex.join` writes passes through it unchanged; `;`, `$(id)` or a line break would run as code.
"""

from __future__ import annotations

import re
import shlex

_ACTIVE = "|&;<>()$`*?[]#~!{}\n\r"
"""Characters that bash acts on outside quotes."""
_ACTIVE_IN_DOUBLE = "$`!"
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")


def fault(entrypoint: str) -> str | None:
    """What a shell would do with it beyond splitting it into words; None where that is all."""
    if "\0" in entrypoint:
        return "a NUL character"
    active = _first_active(entrypoint)
    if active is not None:
        return f"{active!r} outside quotes is read by the shell" if active else "a quote is opened and not closed"
    try:
        argv = shlex.split(entrypoint)
    except ValueError:
        return "a quote is opened, or a backslash stands, with nothing after it"
    if not argv:
        return "no command"
    if _ASSIGNMENT.match(entrypoint.lstrip()):
        return "starts with an assignment, which the shell takes for itself"
    assert shlex.split(shlex.join(argv)) == argv, "an argv that shlex joins is the one that it splits"
    return None


def _first_active(text: str) -> str | None:
    """The first character that bash would act on; empty where a quote stays open, None where there is neither."""
    quote = ""
    escaped = False
    for char in text:
        if escaped:
            escaped = False
            if char in "\n\r":
                return char
        elif quote == "'":
            quote = "" if char == "'" else quote
        elif char == "\\":
            escaped = True
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif char in (_ACTIVE_IN_DOUBLE if quote else _ACTIVE):
            return char
    return "" if quote else None
