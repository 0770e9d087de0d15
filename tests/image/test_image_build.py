"""The steps of the Dockerfile, done one after the other in a clean folder: locks, layers, entry points, doctor."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from dockerfile import FILE, do, lay, stages


def told(place, *argv):
    """What a program of the installed environment says, without anything of this checkout."""
    home = place / "home"
    home.mkdir(exist_ok=True)
    environment = {"PATH": f"{place}/opt/rayml/bin:/usr/bin:/bin", "HOME": str(home), "PYTHONNOUSERSITE": "1"}
    return subprocess.run(argv, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=120)


def tools(place):
    """The stage `tools` without its lock: a virtual environment with the setuptools of this one."""
    subprocess.run([sys.executable, "-m", "venv", place / "opt/rayml"], check=True, timeout=120)
    here, there = Path(sysconfig.get_path("purelib")), next(place.glob("opt/rayml/lib/python*/site-packages"))
    for path in (*here.glob("setuptools*"), here / "_distutils_hack"):
        shutil.rmtree(there / path.name, ignore_errors=True)
    for path in (*here.glob("setuptools*"), here / "_distutils_hack"):
        shutil.copytree(path, there / path.name)


def laid(place):
    """Path in the layer of rayml to what is in it and when it is from."""
    layer = place / "build/layer"
    return {
        str(path.relative_to(layer)): (
            path.lstat().st_mtime,
            path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in layer.rglob("*")
    }


def test_the_layer_of_rayml_is_small_and_the_same_twice_and_holds_nothing_else(tmp_path):
    """13 seconds: of the stage `tools`, its constants and what builds and installs a wheel."""
    found = stages(FILE.read_text())
    found["tools"].steps = [step for step in found["tools"].steps if step[0] == "ENV"]
    tools(tmp_path)
    before = {path: path.lstat().st_mtime for path in (tmp_path / "opt").rglob("*")}
    do(found, "code", tmp_path)
    first = laid(tmp_path)
    assert before == {path: path.lstat().st_mtime for path in (tmp_path / "opt").rglob("*")}, "it touches nothing below"
    shutil.rmtree(tmp_path / "build")
    do(found, "code", tmp_path)
    assert laid(tmp_path) == first

    assert len({time for time, _ in first.values()}) == 1
    files = [name for name, (_, content) in first.items() if content]
    below = [name.partition("/site-packages/")[2] for name in files if name != "bin/rayml"]
    assert "bin/rayml" in files and {name.partition("/")[0].partition("-")[0] for name in below} == {"rayml"}
    modules = {name.removesuffix(".py") for name in below if name.endswith(".py")}
    tag = sys.implementation.cache_tag
    caches = {name.replace("__pycache__/", "").removesuffix(f".{tag}.pyc") for name in below if name.endswith(".pyc")}
    assert modules == caches, "every module is compiled"
    assert sum(path.stat().st_size for path in (tmp_path / "build/layer").rglob("*")) < 20e6

    lay(found, "cuda", tmp_path)
    where = told(tmp_path, "python", "-c", "import rayml; print(rayml.__file__)")
    assert where.stdout.startswith(f"{tmp_path}/opt/rayml/"), where.stderr
    assert (tmp_path / "opt/rayml/bin/rayml").read_text().startswith(f"#!{tmp_path}/opt/rayml/bin/python")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_steps_of_the_cuda_target_end_in_a_rayml_that_starts(tmp_path):
    """4 minutes and 9 GB: every file is installed by its sha256, and nothing that the locks do not name."""
    found = stages(FILE.read_text())
    do(found, "code", tmp_path)
    shutil.rmtree(tmp_path / "opt")
    do(found, "deps-cuda", tmp_path)
    assert not list(tmp_path.glob("opt/rayml/lib/python*/site-packages/rayml*")), "it has a layer of its own"
    lay(found, "cuda", tmp_path)
    python = f"{tmp_path}/opt/rayml/bin/python"
    pip = told(tmp_path, python, "-m", "pip", "check")
    assert pip.returncode == 0, pip.stdout
    entry = told(tmp_path, python, "-m", "rayml.run.cluster_entry", "--help")
    assert entry.returncode == 0 and "--storage" in entry.stdout, entry.stderr
    program = told(tmp_path, "rayml", "--help")
    assert program.returncode == 0 and "submit" in program.stdout, program.stderr
    where = told(tmp_path, python, "-c", "import rayml; print(rayml.__file__)")
    assert where.stdout.startswith(f"{tmp_path}/opt/rayml/"), where.stdout
    if "doctor" in program.stdout:
        doctor = told(tmp_path, "rayml", "doctor", "--image")
        assert "Traceback" not in doctor.stderr and doctor.stdout, doctor.stderr
        if os.environ.get("RAYML_SHOW"):
            print(doctor.stdout)
