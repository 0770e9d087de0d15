"""A job or cluster file, read and checked. Every problem in it is found at once, each with its line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from rayml.errors import Problem, SpecError
from rayml.spec.base import Spec
from rayml.spec.check import check_job
from rayml.spec.cluster import CLUSTERS, Cluster
from rayml.spec.job import JobSpec
from rayml.spec.overrides import override
from rayml.spec.problems import find, problems_of, truth_values
from rayml.spec.searching import place_in_file, search_problems, with_search_as_sweep
from rayml.spec.secrets import literal_secrets
from rayml.spec.sweep import sweep_problems
from rayml.spec.tree import MAX_BYTES, Node, join, parse_yaml, resolve
from rayml.spec.words import listed, nearest, shorten

SpecKind = TypeVar("SpecKind", bound=Spec)

_REFERENCE = re.compile(r"(?P<escape>\$)?\$\{env:(?P<name>[^}]*)(?P<end>\}?)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"SECRET|PASSW|PASSPHRASE|CREDENTIAL|((^|_)(KEY|TOKEN)S?_|(KEY|TOKEN)S?$)", re.IGNORECASE)


def load_job(path: Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> JobSpec:
    """The job that a file describes.

    Args:
        path: a YAML file.
        overrides: `a.b=value` of each `--set`; the last one wins.
        environ: what `${env:NAME}` reads; the process's own where None.
    Raises:
        SpecError: with every problem found, in the order of the lines.
    """
    tree, problems = read_tree(path)
    job = _checked(JobSpec, tree, problems, overrides, environ)
    contradictions = [(tuple(at.split(".")), what) for at, what in check_job(job)] or search_problems(job)
    whole = job if contradictions else with_search_as_sweep(job)
    contradictions = contradictions or [(place_in_file(job, at), what) for at, what in sweep_problems(whole)]
    if contradictions:
        raise _in_order([_contradiction(tree, at, what) for at, what in contradictions])
    return whole


def _contradiction(tree: Node, at: tuple[str, ...], what: str) -> Problem:
    """A problem at the deepest part of a path that the file has. A key of `tune.space` has dots of its own."""
    node, _ = find(tree, [int(part) if part.isdecimal() else part for part in at])
    return Problem(node.file, node.line, ".".join(at), what)


def locate(path: Path, at: str) -> int | None:
    """The line of a job file that a dotted path leads to, or the deepest part of it that is there."""
    try:
        tree, _ = read_tree(path)
    except SpecError:
        return None
    node, _ = find(tree, [int(part) if part.isdecimal() else part for part in at.split(".")])
    return node.line


def load_cluster(path: Path | None, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Cluster:
    """The cluster that a file describes; this machine where there is no file. Otherwise as `load_job`."""
    tree, problems = (Node({}, "cluster", None), []) if path is None else read_tree(path)
    kind, unknown = _kind_of_cluster(tree)
    return _checked(CLUSTERS[kind], tree, [*problems, *unknown], overrides, environ)


def _kind_of_cluster(tree: Node) -> tuple[str, list[Problem]]:
    """The file's `kind`, `local` without one. One that is unknown is a problem, and the rest is read as the nearest."""
    assert isinstance(tree.value, dict), "read_tree refuses anything else"
    node = tree.value.get("kind")
    if node is None:
        return "local", []
    if isinstance(node.value, str) and node.value in CLUSTERS:
        return node.value, []
    near = nearest(str(node.value), list(CLUSTERS))
    what = f"{node.shown()} is not {listed(list(CLUSTERS))}{f'; did you mean `{near}`?' if near else ''}"
    tree.value["kind"] = Node(near or "local", node.file, node.line)
    return near or "local", [Problem(node.file, node.line, "kind", what)]


def read_tree(path: Path) -> tuple[Node, list[Problem]]:
    """The mapping that a YAML file holds, and what is wrong in it. SpecError where there is none."""
    text = _read_text(path)
    tree, problems = parse_yaml(text, str(path))
    if tree is None:
        raise SpecError([Problem(str(path), None, "", "the file is empty")])
    if not isinstance(tree.value, dict):
        what = f"{tree.shown()} is not a file of sections; it starts with a field such as `name: digits`"
        raise SpecError([Problem(str(path), tree.line, "", what)])
    return tree, problems


def _read_text(path: Path) -> str:
    def refuse(what: str, line: int | None = None) -> SpecError:
        return SpecError([Problem(str(path), line, "", what)])

    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = nearest(path.name, _yaml_names(path.parent))
        raise refuse(f"no such file{f'; did you mean `{path.parent / near}`?' if near else ''}") from None
    except IsADirectoryError:
        inside = _yaml_names(path)
        example = f", such as `{path / inside[0]}`" if inside else ""
        raise refuse(f"a folder; name a file{example}") from None
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise refuse(f"more than {MAX_BYTES} bytes; keep data in a file of its own")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise refuse(f"the byte 0x{data[error.start]:02X} is not UTF-8; save the file as UTF-8", line) from None


def _yaml_names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml"))
    except OSError:
        return []


def _checked(
    spec: type[SpecKind],
    tree: Node,
    problems: list[Problem],
    overrides: Sequence[str],
    environ: Mapping[str, str] | None,
) -> SpecKind:
    for text in overrides:
        problems += override(tree, text, spec)
    problems += _insert_environment(tree, "", os.environ if environ is None else environ)
    problems += literal_secrets(tree)
    problems += truth_values(tree, spec)
    try:
        value = spec.model_validate(tree.plain())
    except ValidationError as error:
        told = {problem.path for problem in problems} - {""}
        problems += [problem for problem in problems_of(error, spec, tree) if not _is_told(problem.path, told)]
    if problems:
        raise _in_order(problems)
    return value


def _insert_environment(node: Node, path: str, environ: Mapping[str, str]) -> list[Problem]:
    """Replaces `${env:NAME}` in every text of the tree; `$${env:NAME}` stands for the text itself."""
    if isinstance(node.value, dict):
        return [
            each for key, child in node.value.items() for each in _insert_environment(child, join(path, key), environ)
        ]
    if isinstance(node.value, list):
        return [
            each for at, child in enumerate(node.value) for each in _insert_environment(child, join(path, at), environ)
        ]
    if not isinstance(node.value, str) or "${env:" not in node.value:
        return []
    problems = []

    def read(match: re.Match[str]) -> str:
        if match["escape"]:
            return match[0][1:]
        what = _refusal(match["name"], match["end"], environ)
        if what:
            problems.append(Problem(node.file, node.line, path, what))
        return match[0] if what else environ[match["name"]]

    node.value = _REFERENCE.sub(read, node.value)
    if node.text and not problems:
        return _resolve_again(node, path)
    return problems


def _resolve_again(node: Node, path: str) -> list[Problem]:
    """Outside quotes a variable counts as if its value were typed in its place: `4` is a number."""
    node.text = str(node.value)
    try:
        node.value = resolve(node.text)
    except ValueError as error:
        return [Problem(node.file, node.line, path, str(error))]
    return []


def _refusal(name: str, end: str, environ: Mapping[str, str]) -> str | None:
    if not end:
        return "`${env:` has no `}`; write `${env:NAME}`, or `$${env:` for the text itself"
    if not _VARIABLE.fullmatch(name):
        return f"`{shorten(name)}` is not the name of an environment variable; letters, digits and `_` fit"
    if _SECRET.search(name):
        what = f"`{shorten(name)}` looks like a secret, and the values of a job file are kept with its run"
        return f"{what}; let the code that needs it read it from the environment"
    if name not in environ:
        return f"the environment variable `{shorten(name)}` is not set; `export {name}=...` sets it"
    return None


def _is_told(path: str, told: set[str]) -> bool:
    """Whether a problem of the same value, or of a section around it, has been named already."""
    parts = path.split(".")
    return any(".".join(parts[:length]) in told for length in range(1, len(parts) + 1))


def _in_order(problems: list[Problem]) -> SpecError:
    return SpecError(sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0)))
