"""Constraints of a sweep: a small language over the job's keys. Parsed to a tree and walked; nothing is executed.

    model.width * train.batch_size <= 4096
    train.optimizer.kind == 'sgd' -> train.optimizer.lr >= 0.01
    model.kind in ['mlp', 'small_cnn'] and not model.width > 32

Python's own parser makes the tree. Of its nodes only those named here are known, and an implication `a -> b` is put on
top. A key that a configuration does not have makes the whole constraint hold: it speaks of something else.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rayml.spec.words import shorten, show

MAX_CHARACTERS = 1_000
MAX_NODES = 200

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, among: value in among,
    ast.NotIn: lambda value, among: value not in among,
}
_WORDS = {"true": True, "false": False}
_FITS = "numbers, 'text', keys, + - * / %, comparisons, `in`, `and`, `or`, `not`, `->` and brackets"


class _AbsentKey(Exception):
    """A configuration does not have a key that the expression names."""


@dataclass(frozen=True)
class Expression:
    """One constraint."""

    text: str
    parts: tuple[ast.expr, ...]
    """What an implication joins; a single one where there is none."""
    names: tuple[str, ...]
    """The keys that it speaks of."""

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether a configuration keeps to it. ValueError where its values do not go together.

        Args:
            values: key to value; keys that the configuration does not have are left out.
        """
        try:
            *conditions, last = [bool(_value(part, values)) for part in self.parts]
        except _AbsentKey:
            return True
        except (TypeError, ZeroDivisionError) as error:
            raise ValueError(f"{show(self.text)} cannot be worked out: {error}") from None
        # a -> b -> c is a -> (b -> c): it fails only where all conditions hold and the last part does not.
        return last or not all(conditions)


_AT = "_at_"
_AS_NAME = rf".{_AT}\1"
_PLACE = re.compile(r"(?<=[A-Za-z_])\.(\d+)(?=\.[A-Za-z_])")
"""A place in a list within a key, such as `compress.ladder.0.structured`; Python's grammar wants a name there."""


def parse_expression(text: str) -> Expression:
    """The constraint that a text says. ValueError, with what fits, where it is not one."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"a constraint of more than {MAX_CHARACTERS} characters; write several")
    parts = []
    for part in _split_implications(text):
        if not part.strip():
            raise ValueError(f"{show(text)} is not a constraint; what fits: {_FITS}")
        try:
            # Brackets, so that a line break is no end.
            tree = ast.parse(f"({_PLACE.sub(_AS_NAME, part.strip())})", mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise ValueError(f"{show(text)} is not a constraint; what fits: {_FITS}") from None
        parts.append(tree)
    if sum(1 for part in parts for _ in ast.walk(part)) > MAX_NODES:
        raise ValueError(f"{show(text)} has more than {MAX_NODES} parts; write several constraints")
    names = [name for part in parts for name in _names(part)]
    return Expression(text, tuple(parts), tuple(dict.fromkeys(names)))


def _split_implications(text: str) -> list[str]:
    """The text between `->`, which may stand in quotes too."""
    parts, quote, start, at = [], "", 0, 0
    while at < len(text):
        if quote:
            quote = "" if text[at] == quote else quote
        elif text[at] in "'\"":
            quote = text[at]
        elif text.startswith("->", at):
            parts.append(text[start:at])
            at += 1
            start = at + 1
        at += 1
    return [*parts, text[start:]]


def _names(node: ast.expr) -> list[str]:
    """The keys below a node. ValueError for a node that the language does not have."""
    if isinstance(node, ast.Name | ast.Attribute):
        path = _path(node)
        return [] if path in _WORDS else [path]
    return [name for operand in _operands(node) for name in _names(operand)]


def _operands(node: ast.expr) -> list[ast.expr]:
    """What a node is made of. ValueError for one that the language does not have."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str()):
            operands = []
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            operands = [node.left, node.right]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            operands = [node.operand]
        case ast.BoolOp():
            operands = node.values
        case ast.Compare(ops=ops) if all(type(op) in _COMPARISONS for op in ops):
            operands = [node.left, *node.comparators]
        case ast.List() | ast.Tuple():
            operands = node.elts
        case _:
            raise ValueError(f"`{shorten(ast.unparse(node))}` cannot stand in a constraint; what fits: {_FITS}")
    return operands


def _path(node: ast.expr) -> str:
    """`model.width` from the attribute of a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_path(node.value)}.{node.attr.removeprefix(_AT)}"
    raise ValueError(f"`{shorten(ast.unparse(node))}` cannot stand in a constraint; what fits: {_FITS}")


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """What a node comes to, with the values of a configuration."""
    return _RULES[type(node)](node, values)


def _key(node: ast.Name | ast.Attribute, values: Mapping[str, Any]) -> Any:
    path = _path(node)
    if path in _WORDS:
        return _WORDS[path]
    if path not in values:
        raise _AbsentKey(path)
    return values[path]


def _arithmetic(node: ast.BinOp, values: Mapping[str, Any]) -> Any:
    return _ARITHMETIC[type(node.op)](_number(node.left, values), _number(node.right, values))


def _turned(node: ast.UnaryOp, values: Mapping[str, Any]) -> Any:
    return not _value(node.operand, values) if isinstance(node.op, ast.Not) else -_number(node.operand, values)


def _joined(node: ast.BoolOp, values: Mapping[str, Any]) -> bool:
    found = (_value(value, values) for value in node.values)
    return all(found) if isinstance(node.op, ast.And) else any(found)


def _compared(node: ast.Compare, values: Mapping[str, Any]) -> bool:
    found = [_value(value, values) for value in (node.left, *node.comparators)]
    pairs = zip(node.ops, itertools.pairwise(found), strict=True)
    return all(_COMPARISONS[type(op)](left, right) for op, (left, right) in pairs)


def _listed(node: ast.List | ast.Tuple, values: Mapping[str, Any]) -> list[Any]:
    return [_value(value, values) for value in node.elts]


_RULES: dict[type[ast.expr], Callable[[Any, Mapping[str, Any]], Any]] = {
    ast.Constant: lambda node, _: node.value,
    ast.Name: _key,
    ast.Attribute: _key,
    ast.BinOp: _arithmetic,
    ast.UnaryOp: _turned,
    ast.BoolOp: _joined,
    ast.Compare: _compared,
    ast.List: _listed,
    ast.Tuple: _listed,
}
"""Every node that `_names` let pass."""


def _number(node: ast.expr, values: Mapping[str, Any]) -> int | float:
    """The value of a node that is calculated with: text times a large number would fill the memory."""
    value = _value(node, values)
    if not isinstance(value, int | float):
        raise TypeError(f"{show(value)} is not a number")
    return value
