"""A small job file that the tests of this folder change."""

from __future__ import annotations

from pathlib import Path

import pytest

JOB = """\
name: digits
seed: 7
data:
  source: {kind: sklearn, name: digits}
  split: {train: 0.8, val: 0.1, test: 0.1}
task: {kind: image_classification}
model: {kind: small_cnn}
train:
  workers: 2
  epochs: 15
  optimizer: {kind: adamw, lr: 2.0e-3}
export: {formats: [onnx]}
evaluate: {gates: {accuracy: ">= 0.95"}}
serve:
  replicas: {min: 1, max: 2}
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB, encoding="utf-8")
    return path
