"""The files behind a step's code digest are the files that the stage imports, and no others."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rayml.errors import PlanError
from rayml.plan.code import PACKAGE, STAGE_CODE, code_digest
from rayml.stages.table import STAGES

GROUND_FLOOR = ("redact", "errors", "process", "spec", "artifacts", "plan", "observe", "stages.api")
"""Imported everywhere, decides no result: redact hides, spec parses, artifacts stores, plan and observe tell."""


def module_file(module: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*module.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return None


def reachable(module: str, seen: set[Path]) -> set[Path]:
    path = module_file(module)
    if path is None or path in seen:
        return seen
    if any(module == f"rayml.{name}" or module.startswith(f"rayml.{name}.") for name in GROUND_FLOOR):
        return seen
    seen.add(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.startswith("rayml."):
                reachable(name, seen)
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_the_digest_covers_what_the_stage_imports(stage):
    # All modules of its folder: strategies and launchers are found by name, and imported when they are needed.
    imported: set[Path] = set()
    for path in (PACKAGE / "stages" / stage).rglob("*.py"):
        if path.stat().st_size:
            reachable(
                ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"), imported
            )
    listed = set()
    for entry in STAGE_CODE[stage]:
        path = PACKAGE / entry
        listed |= {path} if path.is_file() else {file for file in path.rglob("*.py") if file.stat().st_size}
    missing = imported - listed
    assert not missing, f"the digest of {stage} leaves out {sorted(map(str, missing))}"
    ml = {path for path in listed if path.parent.name == "ml"}
    assert not ml - imported, f"the digest of {stage} names {sorted(map(str, ml - imported))}, which it does not run"


def test_the_users_code_is_part_of_it(tmp_path):
    without = code_digest("train", None)
    (tmp_path / "net.py").write_text("x = 1")
    first = code_digest("train", tmp_path)
    assert first != without
    (tmp_path / "net.py").write_text("x = 2")
    second = code_digest("train", tmp_path)
    assert second != first
    (tmp_path / "net.py").rename(tmp_path / "other.py")
    assert code_digest("train", tmp_path) != second
    (tmp_path / "notes.txt").write_text("not code")
    (tmp_path / "other.py").rename(tmp_path / "net.py")
    assert code_digest("train", tmp_path) == second


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(PlanError, match="is not a folder"):
        code_digest("train", tmp_path / "gone")
