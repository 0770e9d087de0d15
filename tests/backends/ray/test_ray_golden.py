"""What is sent for each shipped job to the Ray cluster of cluster/any-ray.yaml, whole, against tests/golden/ray.

RAYML_UPDATE_GOLDEN=1 pytest tests/backends/ray/test_ray_golden.py writes them anew; read the diff before it is kept.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from rayml import __version__
from rayml.plan.build import build_plan
from rayml.plan.code import STAGE_CODE
from rayml.plan.deepspeed_check import read_document
from rayml.plan.facts import GIB, Facts, Weights
from rayml.run.submit import dry_run, target, without_endpoint
from rayml.spec.load import load_cluster, load_job

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "ray"
JOBS = tuple(sorted((ROOT / "jobs").glob("*.yaml")))
CODE = {stage: f"{stage:_<16.16}" * 2 for stage in STAGE_CODE}


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_every_job_on_the_ray_cluster(job):
    cluster = target(load_cluster(ROOT / "cluster" / "any-ray.yaml"), "http://head:8265", None)
    spec = load_job(job, ())
    starts = spec.train is not None and spec.train.start is not None
    facts = Facts(
        cpus=cluster.cpus,
        gpus=cluster.gpus,
        memory=64 * GIB,
        source="f" * 32,
        code=CODE,
        own=CODE,
        start=Weights("w" * 32, "/weights") if starts else None,
        deepspeed=read_document(spec, job.parent),
    )
    plan = build_plan(spec, cluster, facts, f"jobs/{job.name}", job.parent)
    sent = dry_run(without_endpoint(plan), cluster, f"{job.stem}-0123456789")
    sent["package"]["bytes"] = "(bytes)"
    text = json.dumps(sent, indent=1) + "\n"
    text = re.sub(r"_ray_pkg_[0-9a-f]{32}", "_ray_pkg_(digest)", text).replace(f'"{__version__}"', '"(rayml)"')
    path = GOLDEN / f"{job.stem}.json"
    if os.environ.get("RAYML_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), "if that is meant: see the top of this file"


def test_no_golden_file_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*.json")} == {job.stem for job in JOBS}
