"""Every shipped job runs as it stands, on two CPU workers. jobs/digits.yaml has a file of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayml.ml.checkpoint import load_weights

pytestmark = pytest.mark.ray

JOBS = Path(__file__).parents[2] / "jobs"
OTHERS = sorted(path.stem for path in JOBS.glob("*.yaml") if path.stem != "digits")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One for all: the jobs that read the same rows share the data step."""
    return tmp_path_factory.mktemp("home")


LONG = {
    "minilm-compress",
    "resnet18-fsdp",
    "resnet18-ddp",
    "async-parameter-server",
    "transformer-zero3",
    "finetune-frozen",
}
"""Half a minute and more each: what they show is shown on smaller networks in tests/stages/train."""


@pytest.mark.parametrize("job", [pytest.param(job, marks=[pytest.mark.soak] if job in LONG else []) for job in OTHERS])
def test_a_shipped_job_runs_and_passes_its_gates(home, job):
    command = [sys.executable, "-m", "rayml.cli", "run", f"jobs/{job}.yaml", "--to", "evaluate", "--json"]
    environment = {**os.environ, "RAYML_HOME": str(home)}
    done = subprocess.run(
        command, cwd=JOBS.parent, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {step["status"] for step in result["steps"]} <= {"done", "cached"}
    assert result["metrics"]["export"]["parity_max_abs_diff"] <= 1e-4
    assert load_weights(Path(result["artifacts"]["train"]))
