"""The steps of the Dockerfile, done one after the other in a clean folder: locks, wheel, entry points, doctor."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from dockerfile import FILE, do, stages


def told(place, *argv):
    """What a program of the installed environment says, without anything of this checkout."""
    home = place / "home"
    home.mkdir(exist_ok=True)
    environment = {"PATH": f"{place}/opt/rayml/bin:/usr/bin:/bin", "HOME": str(home), "PYTHONNOUSERSITE": "1"}
    return subprocess.run(argv, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_steps_of_the_cuda_target_end_in_a_rayml_that_starts(tmp_path):
    """4 minutes and 9 GB: every file is installed by its sha256, and nothing that the locks do not name."""
    found = stages(FILE.read_text())
    do(found, "wheel", tmp_path)
    shutil.rmtree(tmp_path / "opt")
    do(found, "built-cuda", tmp_path)
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
