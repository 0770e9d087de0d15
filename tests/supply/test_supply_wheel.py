"""The wheel of rayml: the same bytes from the same files, and a package that asks no network when it is imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
EPOCH = "1700000000"


def build(folder: Path, stamp: int) -> bytes:
    """The wheel of a copy of the checkout whose files have another time."""
    source, out = folder / "src", folder / "dist"
    shutil.copytree(ROOT / "rayml", source / "rayml", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for path in source.rglob("*"):
        os.utime(path, (stamp, stamp))
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    subprocess.run([*argv, "--wheel-dir", str(out), str(source)], env=environment, check=True, timeout=120)
    (wheel,) = out.glob("*.whl")
    return wheel.read_bytes()


def test_the_wheel_is_built_twice_to_the_same_bytes(tmp_path):
    first, second = build(tmp_path / "first", 1_600_000_000), build(tmp_path / "second place", 1_650_000_000)
    assert first == second
    (tmp_path / "wheel.whl").write_bytes(first)
    with zipfile.ZipFile(tmp_path / "wheel.whl") as archive:
        names = archive.namelist()
    assert "rayml/report/report.html.j2" in names and "rayml/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "cluster")) or name.endswith(".pyc")]


NO_NETWORK = """
import socket
def refuse(*arguments):
    raise AssertionError(f"the network was asked: {arguments[1:]}")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = refuse
import importlib, pkgutil, rayml
for module in pkgutil.walk_packages(rayml.__path__, "rayml."):
    if not module.name.startswith("rayml.bench."):
        importlib.import_module(module.name)
"""


def test_no_module_asks_the_network_when_it_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
