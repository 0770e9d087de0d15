"""What a scalar means, and where a value stands."""

from __future__ import annotations

import pytest
import yaml

from rayml.spec import tree
from rayml.spec.tree import parse_yaml

SCALARS = [
    ("1e-3", 1e-3),
    ("1.0e-3", 1e-3),
    ("-.5", -0.5),
    ("2.", 2.0),
    ("+7", 7),
    ("0", 0),
    ("007", "007"),
    ("1_000", "1_000"),
    ("0x10", "0x10"),
    ("12:30:45", "12:30:45"),
    ("2024-01-31", "2024-01-31"),
    ("1.2.3", "1.2.3"),
    ("true", True),
    ("False", False),
    ("yes", "yes"),
    ("off", "off"),
    ("n", "n"),
    ("~", None),
    ("null", None),
    ("=", "="),
    ("'1e-3'", "1e-3"),
    ('"true"', "true"),
    ('"gr\\u00f6\\xdfe"', "größe"),
    ("größe", "größe"),
    ("٣", "٣"),
    ("|\n  1\n  2\n", "1\n2\n"),
    ("a\n b", "a b"),
    ("nan", "nan"),
    ("https://x.org/a#b", "https://x.org/a#b"),
    ("[1, [], {}, {a: 'b'}]", [1, [], {}, {"a": "b"}]),
]


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[row[0] for row in SCALARS])
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    node, problems = parse_yaml(f"key: {text}", "job.yaml")
    assert node is not None
    assert node.plain() == {"key": value}
    assert type(node.plain()["key"]) is type(value)
    assert problems == []


def test_keys_stay_as_they_were_typed() -> None:
    node, problems = parse_yaml("{1: a, yes: b, null: c, 1.50: d, größe: e}", "job.yaml")
    assert node is not None
    assert node.plain() == {"1": "a", "yes": "b", "null": "c", "1.50": "d", "größe": "e"}
    assert problems == []


def test_each_value_has_the_line_of_its_key() -> None:
    node, _ = parse_yaml("\n# head\na:\n  b:\n    1\n  c: [1,\n    2]\nd:\n  - x\n  - y: 1\n    z: 2\n", "job.yaml")
    lines: dict[str, int | None] = {}

    def walk(at: tree.Node, path: str) -> None:
        lines[path] = at.line
        entries = dict(enumerate(at.value)) if isinstance(at.value, list) else at.value
        for key, child in entries.items() if isinstance(entries, dict) else ():
            walk(child, tree.join(path, key))

    assert node is not None
    walk(node, "")
    assert lines == {
        "": 3, "a": 3, "a.b": 4, "a.c": 6, "a.c.0": 6, "a.c.1": 7,
        "d": 8, "d.0": 9, "d.1": 10, "d.1.y": 10, "d.1.z": 11,
    }  # fmt: skip


SYNTAX = ["a:\n\tb: 1", "a: b: c", "a: [1,\nb: 3", "a: 'x\nb: 1", "a:\n  b: 1\n c: 2", "a: 1\nb", 'a: "\\q"', "a: ]"]


@pytest.mark.parametrize("text", SYNTAX)
def test_the_parser_in_python_gives_the_same_problem(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(tree.SpecError) as first:
        parse_yaml(text, "job.yaml")
    monkeypatch.setattr(tree, "_LOADER", yaml.SafeLoader)
    with pytest.raises(tree.SpecError) as second:
        parse_yaml(text, "job.yaml")
    assert str(first.value) == str(second.value)
    assert "not YAML" not in str(first.value)
