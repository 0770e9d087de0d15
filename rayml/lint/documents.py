"""Kubernetes documents in YAML files, folders and streams, each with its file and the line of every path in it.

Scalars are read as `kubectl` reads them (sigs.k8s.io/yaml, YAML 1.1: `yes` and `on` are true, `010` is eight), which is
not how a job file is read; therefore a composer of its own beside `rayml.spec.tree`. Only parser events are read, so no
tag makes an object, and the limits of `rayml.spec.tree` hold: bytes, depth, values that aliases may add.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml

from rayml.errors import PlanError
from rayml.lint.finding import Finding, Path, Severity, dotted, harmless
from rayml.lint.view import View
from rayml.spec.tree import MAX_ALIASED, MAX_BYTES, MAX_DEPTH, Node
from rayml.spec.words import nearest, shorten

STANDARD_INPUT = "-"
RULE = "yaml"

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SUFFIXES = (".yaml", ".yml")
_NULLS = {"", "~", "null", "Null", "NULL"}
_TRUE, _FALSE = ("true", "yes", "on", "y"), ("false", "no", "off", "n")
_WORDS = {
    form: truth
    for words, truth in ((_TRUE, True), (_FALSE, False))
    for word in words
    for form in (word, word.capitalize(), word.upper())
}
_INTEGER = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_MAX_DIGITS = 300
_TEXT_TAGS = {"tag:yaml.org,2002:str", "!"}
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "int", "float", "bool", "null")}
_MERGE = "<<"


@dataclass(frozen=True)
class Document:
    """One Kubernetes object.

    Args:
        data: its fields as dict, list and scalars.
        file: where it was read, or a name for one that was rendered.
        tree: the same with lines; None for one that was rendered.
        base: the path to it inside the YAML document, as for an entry of a `kind: List`.
    """

    data: dict[str, Any]
    file: str
    tree: Node | None = None
    base: Path = ()

    @property
    def view(self) -> View:
        return View(self.data)

    @property
    def kind(self) -> str:
        return self.view["kind"].text

    @property
    def api_version(self) -> str:
        return self.view["apiVersion"].text

    def line_of(self, path: Path) -> int | None:
        """The line of the deepest part of a path that is there."""
        node = self.tree
        if node is None:
            return None
        for part in path:
            inside = _step(node, part)
            if inside is None:
                break
            node = inside
        return node.line


@dataclass
class Reading:
    """What the files held: documents, and findings where there was none to be read."""

    documents: list[Document]
    findings: list[Finding]


def read(place: FilePath | str) -> Reading:
    """The documents of a file, of every `.yaml` and `.yml` file in a folder, or of standard input where it is `-`.

    Raises:
        PlanError: there is no such file or folder, or it cannot be read.
    """
    if str(place) == STANDARD_INPUT:
        return read_bytes(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")
    path = FilePath(place)
    try:
        files = _files_of(path)
        readings = [_read_file(file) for file in files]
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return Reading(
        [document for reading in readings for document in reading.documents],
        [finding for reading in readings for finding in reading.findings],
    )


def rendered(data: dict[str, Any], number: int) -> Document:
    """An object that was made here and not read: it is named after its kind and name."""
    view = View(data)
    name = view.at("metadata", "name").text or str(number)
    return Document(data, f"{harmless(view['kind'].text) or 'document'}/{harmless(name)}")


def _files_of(path: FilePath) -> list[FilePath]:
    if not path.is_dir():
        path.stat()
        return [path]
    found = (file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
    return sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts))


def _read_file(file: FilePath) -> Reading:
    with file.open("rb") as stream:
        return read_bytes(stream.read(MAX_BYTES + 1), str(file))


def _unreadable(path: FilePath, error: OSError | ValueError) -> PlanError:
    if not isinstance(error, FileNotFoundError):
        where = str(getattr(error, "filename", None) or path)
        return PlanError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=where)
    near = nearest(path.name, [entry.name for entry in path.parent.iterdir()]) if path.parent.is_dir() else None
    hint = f"did you mean `{path.parent / near}`?" if near else "name a manifest, or a folder of manifests"
    return PlanError("no such file or folder", where=str(path), hint=hint)


def read_bytes(data: bytes, file: str) -> Reading:
    """The documents of a YAML stream."""
    if len(data) > MAX_BYTES:
        return Reading([], [Finding(file, None, "", RULE, f"more than {MAX_BYTES} bytes", "split the file")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Reading([], [Finding(file, line, "", RULE, "not UTF-8", "save the file as UTF-8")])
    return read_text(text, file)


def read_text(text: str, file: str) -> Reading:
    """The documents of a YAML stream. What follows a syntax error is not read; what stands before it is kept."""
    composer = _Composer(file)
    documents: list[Document] = []
    try:
        for root in composer.roots(text):
            documents += composer.objects(root, (), file)
    except _Unreadable as stop:
        composer.report(stop.line, stop.path, stop.what)
    except yaml.YAMLError as error:
        composer.report(_line_of(error, text), (), f"not YAML: {_said(error)}")
    return Reading(documents, composer.findings)


def embedded(text: str) -> Any:
    """What a YAML text inside a manifest holds, under the limits of a file; None where it is not one YAML document."""
    composer = _Composer("")
    try:
        roots = list(composer.roots(text))
    except (_Unreadable, yaml.YAMLError, UnicodeEncodeError):
        return None
    return roots[0].plain() if len(roots) == 1 and not composer.findings else None


def _line_of(error: yaml.YAMLError, text: str) -> int | None:
    """Where a bracket or quote is opened that nothing closes, else where the parser stopped."""
    is_open = any(word in str(getattr(error, "context", None)) for word in ("flow", "quoted"))
    names = ("context_mark", "problem_mark") if is_open else ("problem_mark", "context_mark")
    marks = [mark for mark in (getattr(error, name, None) for name in names) if mark is not None]
    return min(marks[0].line, max(text.count("\n") - text.endswith("\n"), 0)) if marks else None


def _said(error: yaml.YAMLError) -> str:
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    return shorten(", ".join(part for part in parts if part)) or "a character that cannot stand in a text file"


class _Unreadable(Exception):
    """A limit is passed: nothing of the stream after it is read."""

    def __init__(self, line: int, path: Path, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.path = path
        self.what = what


class _Composer:
    """Turns the events of a YAML stream into nodes."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[Finding] = []
        self.anchors: dict[str, Node] = {}
        self.aliased = 0
        self.events: Iterator[Any] = iter(())

    def report(self, line: int | None, path: Path, what: str, severity: Severity = "error") -> None:
        number = None if line is None else line + 1
        self.findings.append(Finding(self.file, number, dotted(path), RULE, on_one_line(what), severity=severity))

    def roots(self, text: str) -> Iterator[Node]:
        self.events = iter(yaml.parse(text, Loader=_LOADER))
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.anchors, self.aliased = {}, 0
                first = next(self.events)
                yield self.node(first, (), first.start_mark.line, 0)

    def objects(self, root: Node, base: Path, file: str) -> Iterator[Document]:
        """The object that a document holds, or each of those that its `kind: List` holds."""
        if root.value is None:
            return
        line = None if root.line is None else root.line - 1
        if not isinstance(root.value, dict):
            self.report(line, base, "not a Kubernetes object: not a mapping", severity="warning")
            return
        kind, items = root.value.get("kind"), root.value.get("items")
        is_list = kind is not None and isinstance(kind.value, str) and kind.value.endswith("List")
        if not is_list or items is None or not isinstance(items.value, list):
            yield Document(root.plain(), file, root, base)
            return
        for at, entry in enumerate(items.value):
            yield from self.objects(entry, (*base, "items", at), file)

    def node(self, event: Any, path: Path, line: int, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, path, line, depth)
        if isinstance(event, yaml.ScalarEvent):
            node = self.at(line, self.scalar(event, path))
        else:
            if depth >= MAX_DEPTH:
                raise _Unreadable(line, (), f"nested more than {MAX_DEPTH} deep")
            self.check_tag(event, path)
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            node = self.at(line, self.mapping(path, depth) if is_mapping else self.sequence(path, depth))
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def at(self, line: int, value: Any) -> Node:
        return Node(value, self.file, line + 1)

    def check_tag(self, event: Any, path: Path) -> None:
        if event.tag is not None and event.tag not in _PLAIN_TAGS | _TEXT_TAGS:
            self.report(event.start_mark.line, path, f"the tag `{harmless(event.tag)}` is not read; write plain values")

    def scalar(self, event: Any, path: Path) -> Any:
        self.check_tag(event, path)
        if event.tag in _TEXT_TAGS or not (event.implicit[0] or event.tag in _PLAIN_TAGS):
            return event.value
        return resolve(event.value)

    def alias(self, event: Any, path: Path, line: int, depth: int) -> Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            self.report(line, path, "no value before this one has the name of this alias; put text with `*` in quotes")
            return self.at(line, None)
        values, height = _measure(node)
        self.aliased += values
        if self.aliased > MAX_ALIASED:
            raise _Unreadable(line, path, f"aliases add more than {MAX_ALIASED} values")
        if depth + height > MAX_DEPTH:
            raise _Unreadable(line, (), f"nested more than {MAX_DEPTH} deep")
        return Node(node.value, self.file, line + 1)

    def mapping(self, path: Path, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        merged: list[Node] = []
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = event.start_mark.line
            key = event.value if isinstance(event, yaml.ScalarEvent) else None
            if key is None:
                self.report(line, path, "a key has to be one word")
                self.node(event, path, line, depth + 1)
            value = next(self.events)
            node = self.node(value, path if key is None else (*path, key), line, depth + 1)
            if key == _MERGE and event.implicit[0]:
                merged += node.value if isinstance(node.value, list) else [node]
            elif key in entries:
                self.report(line, (*path, key), f"written twice, first in line {entries[key].line}; keep one of them")
            elif key is not None:
                entries[key] = node
        for node in merged:
            if isinstance(node.value, dict):
                entries = {**node.value, **entries}
        return entries

    def sequence(self, path: Path, depth: int) -> list[Node]:
        entries: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            entries.append(self.node(event, (*path, len(entries)), event.start_mark.line, depth + 1))
        return entries


def on_one_line(text: str) -> str:
    """One line, whatever a file put into it."""
    return "".join(char if char.isprintable() else " " for char in text)


def resolve(text: str) -> bool | int | float | str | None:
    """What an unquoted scalar means to `kubectl`; infinities and dates stay text, as JSON has neither."""
    if text in _NULLS:
        return None
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        return value if math.isfinite(value) else text
    return text


def _integer(text: str) -> int | str:
    digits = text.replace("_", "").lower()
    body = digits.lstrip("+-")
    is_octal = len(body) > 1 and body[0] == "0" and body[1].isdigit()
    try:
        return int(digits, 8) if is_octal else int(digits, 0)
    except ValueError:
        return text


def _step(node: Node, part: str | int) -> Node | None:
    if isinstance(node.value, dict):
        return node.value.get(str(part))
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    return None


def _measure(node: Node) -> tuple[int, int]:
    """How many values a node holds, itself included, and how deep it is nested (0 for a scalar)."""
    if not isinstance(node.value, (dict, list)):
        return 1, 0
    children = [_measure(child) for child in (node.value.values() if isinstance(node.value, dict) else node.value)]
    return 1 + sum(values for values, _ in children), 1 + max((height for _, height in children), default=0)
