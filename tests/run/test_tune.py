"""`rayml tune` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

JOB = Path(__file__).parents[2] / "jobs" / "digits.yaml"


def tune(*arguments):
    command = [sys.executable, "-m", "rayml.cli", "tune", str(JOB), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "a sweep over keys of the job is its `tune` section"),
        (("--lr-range", "--batch-range"), "one at a time"),
        (("--lr-range", "--from", "1", "--to", "0.1"), "does not rise"),
        (("--lr-range", "--steps", "1"), "greater than or equal to 2"),
        (("--lr-range", "--set", "train.lr=1"), "no such field"),
    ],
)
def test_what_cannot_be_found_is_refused(tmp_path, arguments, words):
    done = tune(*arguments, "--home", tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ray
def test_it_runs_the_data_step_and_finds_a_learning_rate(tmp_path):
    """One that trains: the loss falls there, and no train step is left behind."""
    home = tmp_path / "größe"
    done = tune("--lr-range", "--steps", "60", "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 1e-4 < found["suggestion"]["lr"] < 1e-1
    assert {path.name for path in (home / "artifacts").iterdir() if path.is_dir()} >= {"data"}
    assert not list((home / "artifacts" / "train").glob("*/manifest.json"))

    again = tune("--batch-range", "--steps", "2", "--home", home)
    assert again.returncode == 0, again.stderr
    assert "samples/s" in again.stdout
    assert "starts Ray" not in again.stderr, "the data was there already"
