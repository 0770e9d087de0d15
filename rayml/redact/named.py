"""Values beside a name that says that they are secret: `PASSWORD=...`, `"token": "..."`, `api_key: ...`, `?sig=...`."""

from __future__ import annotations

import re

from rayml.redact.names import is_secret_name
from rayml.redact.shapes import HIDDEN

_ANCHORS = ("passw", "passphrase", "pwd", "secret", "token", "key", "credential", "auth", "sshpass", "signature")
_NAME = re.compile(
    r"""(?<![\w.-])(?P<name>[A-Za-z_][\w.-]{0,80})  (?P<quote>\\{0,15}["'])?
    [ \t]{0,8}  (?P<sign>=>|:=|=|:)  [ \t]{0,8}""",
    re.ASCII | re.VERBOSE,
)
_QUOTED = re.compile(r"""(?P<mark>["'])(?P<value>(?:\\.|(?!(?P=mark))[^\\\n])*)""")
_ESCAPED = re.compile(r"""(?P<mark>\\{1,15}["'])(?P<value>[^\n]{0,4000}?)(?P=mark)""")
"""In JSON that stands in JSON."""
_PLAIN = re.compile(r"""[^\s"'&;,<>(){}\[\]\\]{1,512}""")
_PLAIN_REST = re.compile(r"""[^\s"'&;,<>(){}\[\]\\]*""")
"""What follows where a value is longer. Only what is hidden is read to its end: a text is searched in one pass."""
_DIGIT = re.compile(r"\d")
_REFERENCE = re.compile(r"[$<(%*]|\.\.\.|secretKeyRef|!\w")
_WORDS = {
    "none",
    "null",
    "true",
    "false",
    "nil",
    "yes",
    "no",
    "on",
    "off",
    "auto",
    "required",
    "optional",
    "str",
    "bytes",
}
_NUMBER = re.compile(r"[+-]?\d{1,5}(\.\d+)?")
NEAR = 80
_LOOSE = 6
"""Characters that a word after `name: ` has at least, with a digit among them, unless it stands alone on the line."""


def without_named(text: str) -> str:
    """A text in which each value beside a secret name is replaced. References such as `$NAME` stay."""
    lower = text.lower()
    if not any(anchor in lower for anchor in _ANCHORS):
        return text
    parts, end, at = [], 0, 0
    while (match := _NAME.search(text, at)) is not None:
        at = match.end()
        span = _value_of(match, text) if is_secret_name(match["name"]) else None
        if span is not None:
            parts += [text[end : span[0]], HIDDEN]
            end = at = span[1]
    return "".join([*parts, text[end:]])


def _value_of(name: re.Match[str], text: str) -> tuple[int, int] | None:
    """Where the value stands; None where it is none that has to be hidden."""
    quoted = _QUOTED.match(text, name.end()) or _ESCAPED.match(text, name.end())
    if quoted is not None:
        return quoted.span("value") if _is_value(name["name"], quoted["value"]) else None
    plain = _PLAIN.match(text, name.end())
    if plain is None or not _is_plain_value(text, name, plain):
        return None
    rest = _PLAIN_REST.match(text, plain.end())
    assert rest is not None, "nothing fits too"
    return plain.start(), rest.end()


def _is_value(name: str, value: str) -> bool:
    """Text that is more than a reference, a word of a language or a small number."""
    text = value.strip().rstrip("\\")
    return bool(
        text
        and text.lower() not in _WORDS
        and _last_part(text) != _last_part(name)
        and not _REFERENCE.match(text)
        and not _NUMBER.fullmatch(text)
        and (" " not in text or may_have_spaces(name))
    )


def _last_part(name: str) -> str:
    """`token` of `self._token`: `token=cluster.token` in a line of a traceback holds no secret."""
    return name.rpartition(".")[2].strip("_").lower()


def may_have_spaces(name: str) -> bool:
    """Of passwords and passphrases; beside another name, words with spaces between them are a sentence."""
    return "pass" in name.lower()


def _is_plain_value(text: str, name: re.Match[str], value: re.Match[str]) -> bool:
    if not _is_value(name["name"], value[0]) or text[value.end() : value.end() + 1] in ("(", "["):
        return False
    if name["sign"] != ":":
        return True
    loose = len(value[0]) >= _LOOSE and _DIGIT.search(value[0]) is not None and not value[0].endswith(":")
    return loose or _fills_its_line(text, name, value)


def _fills_its_line(text: str, name: re.Match[str], value: re.Match[str]) -> bool:
    """Whether it is `- name: value` and nothing else, as in YAML."""
    before = text[max(0, name.start() - NEAR) : name.start()].rpartition("\n")[2]
    after = text[value.end() : value.end() + NEAR].partition("\n")[0]
    return name["sign"] == ":" and name.end() > name.end("sign") and before.strip(" \t-") == "" and not after.strip()
