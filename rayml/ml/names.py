"""Parameters and layers by pattern of their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from rayml.errors import StageError
from rayml.spec.words import nearest


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern (`*`, `?`, `[ab]`) matches as a whole; `*` stands for dots too."""
    return [name for name in names if fnmatchcase(name, pattern)]


def require_matching(pattern: str, names: Sequence[str], noun: str, where: str) -> list[str]:
    """The names that a pattern matches. StageError where it matches none: it would change nothing, and nobody notice.

    `noun`: what the names are of, such as `parameter of the model`.
    """
    found = matching(pattern, names)
    if found:
        return found
    near = nearest(pattern, names, likeness=0.4)
    between = f"; they go from `{names[0]}` to `{names[-1]}`" if names else ""
    raise StageError(
        f"`{pattern}` matches no {noun}" + (f"; did you mean `{near}`?" if near else between),
        where=where,
        hint="a pattern is held against the whole name, and `*` stands for any text, dots too: `network.0.*`",
    )
