"""The layers: each imports only what stands before it, no stage imports another, the light ones stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rayml"
LAYERS = (
    "redact",
    "errors",
    "process",
    "spec",
    "lint",
    "artifacts",
    "plan",
    "observe",
    "ml",
    "stages",
    "backends",
    "report",
    "run",
    "doctor",
    "bench",
    "cli",
)
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.stat().st_size)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_only_what_stands_before(path):
    mine = layer(module_name(path))
    if not mine:
        return
    for name in imports(path):
        other = layer(name)
        if not name.startswith("rayml.") or other not in LAYERS:
            continue
        assert LAYERS.index(other) <= LAYERS.index(mine), f"{module_name(path)} imports {name}, which stands above it"


@pytest.mark.parametrize("path", sorted((PACKAGE / "stages").rglob("*.py")), ids=module_name)
def test_no_stage_imports_another(path):
    mine = module_name(path).split(".")
    for name in imports(path):
        parts = name.split(".")
        if len(mine) > 3 and parts[:2] == ["rayml", "stages"] and len(parts) > 3 and parts[2] != "api":
            assert parts[2] == mine[2], f"{module_name(path)} imports {name}"


HEAVY = ("ray", "torch", "onnx", "onnxruntime", "sklearn", "pyarrow", "numpy")


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["validate", "jobs/digits.yaml"],
        ["plan", "jobs/digits.yaml", "--home", "{home}"],
        ["schema"],
        ["verify", "--home", "{home}"],
    ],
    ids=lambda argv: argv[0],
)
def test_light_commands_import_nothing_heavy(argv, tmp_path):
    argv = [part.format(home=tmp_path) for part in argv]
    program = (
        "import sys\nfrom rayml.cli import main\n"
        f"sys.argv = ['rayml', *{argv!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\nassert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


UNSAFE = ("pickle.load", "weights_only=False", "allow_pickle=True", "yaml.load(", "joblib.load", "shell=True", "eval(")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_nothing_unsafe_is_called(path):
    text = path.read_text()
    found = [word for word in UNSAFE if word in text.replace(".eval()", "")]
    assert not found, f"{path}: {found}"
