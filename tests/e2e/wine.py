"""A job of seconds with two ranks and many checkpoints, and the model that it leaves in a bucket."""

from __future__ import annotations

from pathlib import Path

from rayml.artifacts.bucket import Bucket

BUCKET = "runs"
JOB = """\
name: wine
seed: 11
data:
  source: {kind: sklearn, name: wine}
  split: {train: 0.6, val: 0.2, test: 0.2}
task: {kind: tabular_classification}
model: {kind: mlp, hidden: [64, 64]}
train:
  {workers: WORKERS, epochs: EPOCHS, batch_size: 16, best: {metric: val/loss}, checkpoint: {every_steps: 3},
   strategy: {kind: STRATEGY}}
export: {}
evaluate: {}
serve: {}
"""


def job_text(epochs: int, strategy: str = "ddp", workers: int = 2) -> str:
    """The job file."""
    return JOB.replace("WORKERS", str(workers)).replace("EPOCHS", str(epochs)).replace("STRATEGY", strategy)


def job_file(folder: Path, epochs: int, strategy: str = "ddp") -> str:
    """The path of the job file in a folder."""
    path = folder / f"wine-{epochs}.yaml"
    path.write_text(job_text(epochs, strategy))
    return str(path)


def model_of(prefix: str) -> bytes:
    """The one trained model below a prefix of the bucket."""
    bucket = Bucket(BUCKET, f"{prefix}/artifacts/train")
    [path] = [entry.path for entry in bucket.entries("") if entry.path.count("/") == 2 and "model.safe" in entry.path]
    found = bucket.read(path)
    assert found is not None
    return found[0]
