"""`compress.search` becomes the job's sweep, and what is wrong with it is told at its own line."""

from __future__ import annotations

import pytest

from rayml.errors import SpecError
from rayml.spec.load import load_job

JOB = """name: ladder
data:
  source: {kind: sklearn, name: digits}
task: {kind: image_classification}
model: {kind: small_cnn}
train: {epochs: 3}
compress:
  ladder:
    - {kind: prune, structured: 0.4}
    - {kind: quantize}
  search:
"""


def load(tmp_path, search: str):
    path = tmp_path / "job.yaml"
    path.write_text(JOB + search)
    return load_job(path)


def test_its_keys_are_keys_of_the_job(tmp_path):
    job = load(
        tmp_path,
        """    space:
      ladder.0.structured: {uniform: [0.1, 0.6]}
      ladder.1.scheme: {choice: [int8_static, int8_dynamic]}
      ladder.1.calibration.rows: {choice: [64, 256], when: {ladder.1.scheme: int8_static}}
    constraints: [ladder.0.structured < 0.5]
    known: [{ladder.0.structured: 0.3}]
    budget: {trials: 5}
""",
    )
    assert job.compress.search is None
    assert list(job.tune.space) == [
        "compress.ladder.0.structured",
        "compress.ladder.1.scheme",
        "compress.ladder.1.calibration.rows",
    ]
    assert job.tune.space["compress.ladder.1.calibration.rows"].when == {"compress.ladder.1.scheme": "int8_static"}
    assert job.tune.constraints == ("compress.ladder.0.structured < 0.5",)
    assert job.tune.known == ({"compress.ladder.0.structured": 0.3},)
    assert job.tune.budget.trials == 5
    assert [each.metric for each in job.tune.objectives] == ["compress/accuracy", "size_bytes", "latency_p50_ms"]


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (
            "    space: {ladder.0.structurd: {choice: [0.1]}}\n",
            "12: compress.search.space.ladder.0.structurd: no such key",
        ),
        ("    space: {ladder.0.structured: {choice: [2]}}\n", "12: compress.search.space.ladder.0.structured"),
        ("    space: {budget.size: {choice: [2000]}}\n", "`compress.budget` is not searched"),
    ],
)
def test_a_fault_is_told_at_its_line(tmp_path, search, said):
    with pytest.raises(SpecError, match=said.replace(".", r"\.")):
        load(tmp_path, search)


def test_beside_a_sweep_it_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"the job has a `tune` section too; write these keys into tune\.space"):
        load(
            tmp_path, "    space: {ladder.0.structured: {choice: [0.2]}}\ntune: {space: {model.width: {choice: [8]}}}\n"
        )
