"""Constraints of a sweep: a small language over the job's keys. Parsed to a tree and walked; nothing is executed.

    model.width * train.batch_size <= 4096
    train.optimizer.kind == 'sgd' -> train.optimizer.lr >= 0.01
    model.kind in ['mlp', 'small_cnn'] and not model.width > 32

Python's own parser makes the tree. Of its nodes only those named here are known, and an implication `a -> b` is put on
top. A key that a configuration does not have makes the whole constraint hold: it speaks of something else.
"""

from __future__ import annotations

import ast
import operator
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


def parse_expression(text: str) -> Expression:
    """The constraint that a text says. ValueError, with what fits, where it is not one."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"a constraint of more than {MAX_CHARACTERS} characters; write several")
    parts = []
    for part in _split_implications(text):
        try:
            # Brackets, so that a line break is no end.
            tree = ast.parse(f"({part.strip()})", mode="eval").body
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
    match node:
        case ast.Name() | ast.Attribute():
            path = _path(node)
            return [] if path in _WORDS else [path]
        case ast.Constant(value=bool() | int() | float() | str()):
            return []
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            return [*_names(node.left), *_names(node.right)]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            return _names(node.operand)
        case ast.BoolOp():
            return [name for value in node.values for name in _names(value)]
        case ast.Compare(ops=ops) if all(type(op) in _COMPARISONS for op in ops):
            return [name for value in (node.left, *node.comparators) for name in _names(value)]
        case ast.List() | ast.Tuple():
            return [name for value in node.elts for name in _names(value)]
    raise ValueError(f"`{shorten(ast.unparse(node))}` cannot stand in a constraint; what fits: {_FITS}")


def _path(node: ast.expr) -> str:
    """`model.width` from the attribute of a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_path(node.value)}.{node.attr}"
    raise ValueError(f"`{shorten(ast.unparse(node))}` cannot stand in a constraint; what fits: {_FITS}")


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() | ast.Attribute():
            path = _path(node)
            if path in _WORDS:
                return _WORDS[path]
            if path not in values:
                raise _AbsentKey(path)
            return values[path]
        case ast.BinOp():
            left, right = _number(node.left, values), _number(node.right, values)
            return _ARITHMETIC[type(node.op)](left, right)
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, values)
        case ast.UnaryOp():
            return -_number(node.operand, values)
        case ast.BoolOp(op=ast.And()):
            return all(_value(value, values) for value in node.values)
        case ast.BoolOp():
            return any(_value(value, values) for value in node.values)
        case ast.List() | ast.Tuple():
            return [_value(value, values) for value in node.elts]
        case ast.Compare():
            found = [_value(value, values) for value in (node.left, *node.comparators)]
            return all(
                _COMPARISONS[type(op)](left, right) for op, left, right in zip(node.ops, found, found[1:], strict=False)
            )
    raise AssertionError(f"{ast.dump(node)} was refused when the constraint was parsed")


def _number(node: ast.expr, values: Mapping[str, Any]) -> int | float:
    """The value of a node that is calculated with: text times a large number would fill the memory."""
    value = _value(node, values)
    if not isinstance(value, int | float):
        raise TypeError(f"{show(value)} is not a number")
    return value
