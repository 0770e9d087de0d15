"""YAML text as a tree that knows the line of every value.

Scalars follow the YAML 1.2 core schema, as editors do: `1e-3` is a number; `yes`, `on` and `2024-01-01` are text, and
so is `007`. Only events are read from the parser, so no tag can construct an object, and each limit is checked before
the memory is taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from rayml.errors import Problem, SpecError
from rayml.spec.words import RawText, shorten, show

MAX_BYTES = 2**20
MAX_DEPTH = 64
MAX_VALUES = 50_000
MAX_ALIASED = 1_000
"""Values that aliases may add: the bound on a "billion laughs" file."""
MAX_DIGITS = 300

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml: 0.07 ms for jobs/digits.yaml, Python: 1.1 ms

_INTEGER = re.compile(r"[-+]?(0|[1-9]\d*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+\.\d*|(0|[1-9]\d*)(?=[eE]))([eE][-+]?\d+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = {"null", "Null", "NULL", "~"}
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""With the line breaks of Unicode, which YAML counts as lines and an editor does not."""

_AT_ERROR, _AT_OPENING = "problem_mark", "context_mark"
_SYNTAX = (
    ("unknown escape", _AT_ERROR, "a `\\` in double quotes starts an escape such as `\\n`; use single quotes"),
    ("scanning a quoted scalar", _AT_OPENING, "a quote is opened here and not closed"),
    ("parsing a flow", _AT_OPENING, "a bracket is opened here and not closed, or a comma is missing"),
    ("scanning a block scalar", _AT_ERROR, "text that starts with `>` or `|` needs quotes"),
    ("sequence entries are not allowed", _AT_ERROR, "an entry of a list, `- value`, stands on a line of its own"),
    ("scanning a simple key", _AT_OPENING, "neither `key: value` nor indented like its neighbours"),
    (
        "mapping values are not allowed",
        _AT_ERROR,
        "a `:` too many, wrong indentation, or no `:` in the line above; text that holds `: ` needs quotes",
    ),
    ("parsing a block", _AT_ERROR, "not indented like its neighbours, or not `key: value`"),
)
"""What the parser says, which of its two marks is meant, and what a person can do. The first that matches is used."""


@dataclass
class Node:
    """A value and the place where it was written."""

    value: bool | int | float | str | dict[str, Node] | list[Node] | None
    file: str
    line: int | None
    """The line of the key for a value of a mapping. None in an override."""
    text: str = ""
    """A scalar as it was typed without quotes; empty for one in quotes."""

    def plain(self) -> Any:
        """The value as dict, list and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def shown(self) -> str:
        """The value for an error sentence."""
        number = isinstance(self.value, (bool, int, float)) or self.value is None
        return show(RawText(self.text) if number and self.text else self.plain())


def join(path: str, part: str | int) -> str:
    return f"{path}.{part}" if path else str(part)


def parse_yaml(text: str, file: str, *, path: str = "", numbered: bool = True) -> tuple[Node | None, list[Problem]]:
    """The tree of one YAML document, None where there is none, and what is wrong in it.

    Args:
        path: where the value will stand, for the problems.
        numbered: whether lines are meaningful; not for the value of an override.
    Raises:
        SpecError: nothing can be read after this problem: a syntax error or a limit.
    """
    composer = _Composer(file, numbered)
    try:
        composer.check_characters(text)
        events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        return composer.document(events, path), composer.problems
    except yaml.YAMLError as error:
        raise composer.fatal(*_syntax_sentence(error, text)) from None


class _Composer:
    def __init__(self, file: str, numbered: bool) -> None:
        self.file = file
        self.numbered = numbered
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node] = {}
        self.values = 0
        self.aliased = 0
        self.events: Iterator[Any] = iter(())

    def check_characters(self, text: str) -> None:
        match = _UNPRINTABLE.search(text)
        if match:
            line = text.count("\n", 0, match.start())
            raise self.fatal(line, f"the character U+{ord(match[0]):04X} cannot stand in a text file")

    def fatal(self, line: int | None, what: str, path: str = "") -> SpecError:
        return SpecError([*self.problems, self.problem(line, path, what)])

    def problem(self, line: int | None, path: str, what: str) -> Problem:
        return Problem(self.file, line + 1 if self.numbered and line is not None else None, path, what)

    def document(self, events: Iterator[Any], path: str) -> Node | None:
        self.events = events
        root = None
        for event in self.events:
            line = event.start_mark.line
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise self.fatal(line, "a second document starts here; a file holds one")
                first = next(self.events)
                if not _is_empty(first):
                    root = self.node(first, path, first.start_mark.line, 0)
        return root

    def node(self, event: Any, path: str, line: int, depth: int) -> Node:
        self.values += 1
        if self.values > MAX_VALUES:
            raise self.fatal(line, f"more than {MAX_VALUES} values; keep data in a file of its own", path)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, path, line, depth)
        if event.tag is not None:
            sentence = (
                f"the tag `{shorten(event.tag.replace('tag:yaml.org,2002:', '!!'))}` is not read; write plain values"
            )
            self.problems.append(self.problem(line, path, sentence))
        if isinstance(event, yaml.ScalarEvent):
            node = self.scalar(event, path, line)
        else:
            if depth >= MAX_DEPTH:
                raise self.fatal(line, f"nested more than {MAX_DEPTH} deep")
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            value = self.mapping(path, depth) if is_mapping else self.sequence(path, depth)
            node = self.at(line, value)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def at(self, line: int, value: Any, text: str = "") -> Node:
        return Node(value, self.file, line + 1 if self.numbered else None, text)

    def alias(self, event: Any, path: str, line: int, depth: int) -> Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            what = (
                f"no value before this one is named `&{shorten(event.anchor)}`; put text that starts with `*` in quotes"
            )
            self.problems.append(self.problem(line, path, what))
            return self.at(line, None)
        values, height = _measure(node)
        self.aliased += values
        if self.aliased > MAX_ALIASED:
            raise self.fatal(line, f"aliases add more than {MAX_ALIASED} values", path)
        if depth + height > MAX_DEPTH:
            raise self.fatal(line, f"nested more than {MAX_DEPTH} deep")
        return self.copy(node, line)

    def copy(self, node: Node, line: int) -> Node:
        """The value of an anchor, with the line of the alias: that is where its path stands."""
        value = node.value
        if isinstance(value, dict):
            value = {key: self.copy(child, line) for key, child in value.items()}
        elif isinstance(value, list):
            value = [self.copy(child, line) for child in value]
        return self.at(line, value, node.text)

    def scalar(self, event: Any, path: str, line: int) -> Node:
        if not event.implicit[0] and event.tag is None:
            return self.at(line, event.value)
        try:
            return self.at(line, resolve(event.value), event.value)
        except ValueError as error:
            self.problems.append(self.problem(line, path, str(error)))
            return self.at(line, None, event.value)

    def mapping(self, path: str, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = event.start_mark.line
            key = event.value if isinstance(event, yaml.ScalarEvent) else ""
            if key in ("", "<<"):
                what = "merge keys (`<<`) are not read; write the fields out" if key else "a key has to be one word"
                self.problems.append(self.problem(line, path, what))
                self.node(event, path, line, depth + 1)
                self.node(next(self.events), path, line, depth + 1)
                continue
            key_path = join(path, shorten(key))
            event = next(self.events)
            if ":" in key and _is_empty(event):
                what = f"write `{shorten(key.replace(':', ': ', 1))}`, with a space after the `:`"
                self.problems.append(self.problem(line, path, what))
                continue
            node = self.node(event, key_path, line, depth + 1)
            if key in entries:
                first = f", first in line {lines[key] + 1}" if self.numbered else ""
                self.problems.append(self.problem(line, key_path, f"written twice{first}; keep one of them"))
            else:
                entries[key], lines[key] = node, line
        return entries

    def sequence(self, path: str, depth: int) -> list[Node]:
        entries: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            entries.append(self.node(event, join(path, len(entries)), event.start_mark.line, depth + 1))
        return entries


def _is_empty(event: Any) -> bool:
    """Whether nothing stands where a value is expected."""
    return isinstance(event, yaml.ScalarEvent) and event.value == "" and event.implicit[0]


def _measure(node: Node) -> tuple[int, int]:
    """How many values a node holds, itself included, and how deep it is nested (0 for a scalar)."""
    if not isinstance(node.value, (dict, list)):
        return 1, 0
    children = [_measure(child) for child in (node.value.values() if isinstance(node.value, dict) else node.value)]
    return 1 + sum(values for values, _ in children), 1 + max((height for _, height in children), default=0)


def resolve(text: str) -> bool | int | float | str | None:
    """What an unquoted scalar means. ValueError with a sentence where it is empty or not a finite number."""
    if text == "":
        raise ValueError(
            "nothing stands here; write a value, `{}` for a section as it is by default, or `null` for none"
        )
    if text in _WORDS:
        return _WORDS[text]
    if text in _NULLS:
        return None
    is_integer = _INTEGER.fullmatch(text) is not None
    if not is_integer and not _FLOAT.fullmatch(text):
        if _NOT_FINITE.fullmatch(text):
            raise ValueError(f"{text} is not a finite number")
        return text
    if len(text) > MAX_DIGITS or not math.isfinite(float(text)):
        raise ValueError(f"{shorten(text)} is too large a number")
    return int(text) if is_integer else float(text)


def _syntax_sentence(error: yaml.YAMLError, text: str) -> tuple[int | None, str]:
    """The line, counted from 0, and what to do about it."""
    mark: Any = getattr(error, "problem_mark", None)
    said = f"{getattr(error, 'context', None) or ''} {getattr(error, 'problem', None) or error}"
    if mark is None:
        return None, f"not YAML: {shorten(said.strip())}"
    lines = text.split("\n")
    rest = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
    if rest.startswith("\t") or "a tab" in said:
        return mark.line, "a tab; YAML is indented with spaces"
    if "cannot start any token" in said and rest:
        return mark.line, f"a value cannot start with {rest[0]}; put it in quotes"
    if rest[:1] in ("]", "}") and "flow" not in said:
        return mark.line, f"`{rest[0]}` closes nothing"
    for phrase, which, sentence in _SYNTAX:
        if phrase in said:
            line = min((getattr(error, which, None) or mark).line, len(lines) - 1)
            in_brackets = "flow" in said and "${env:" in lines[line]
            return line, "inside brackets `${env:NAME}` needs quotes" if in_brackets else sentence
    return min(mark.line, len(lines) - 1), f"not YAML: {shorten(said.strip())}"
