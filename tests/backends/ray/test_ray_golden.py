"""What is sent for each shipped job to the Ray cluster of cluster/any-ray.yaml, whole, against tests/golden/ray.

RAYML_UPDATE_GOLDEN=1 pytest tests/backends/ray/test_ray_golden.py writes them anew; read the diff before it is kept.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import pytest
from backends.kuberay.kuberay_jobs import JOBS, ROOT, facts_of

from rayml import __version__
from rayml.plan.build import build_plan
from rayml.plan.facts import find_weights
from rayml.plan.sent import with_sent
from rayml.run.submit import dry_run, target, without_endpoint
from rayml.spec.load import load_cluster, load_job

GOLDEN = ROOT / "tests" / "golden" / "ray"


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_every_job_on_the_ray_cluster(job):
    cluster = target(load_cluster(ROOT / "cluster" / "any-ray.yaml"), "http://head:8265", None)
    spec = load_job(job, ())
    facts = facts_of(spec, cluster)
    if facts.start is not None:  # whose files are listed, for what would be sent
        facts = replace(facts, start=find_weights(spec, job.parent, None))
    plan = build_plan(spec, cluster, with_sent(facts, spec, cluster), f"jobs/{job.name}", job.parent)
    sent = dry_run(without_endpoint(plan), cluster, f"{job.stem}-0123456789")
    sent["package"]["bytes"] = "(bytes)"
    text = json.dumps(sent, indent=1) + "\n"
    text = re.sub(r"_ray_pkg_[0-9a-f]{32}", "_ray_pkg_(digest)", text).replace(f'"{__version__}"', '"(rayml)"')
    text = re.sub(r"/sent/weights-[0-9a-f]{32}/", "/sent/weights-(digest)/", text)
    path = GOLDEN / f"{job.stem}.json"
    if os.environ.get("RAYML_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), "if that is meant: see the top of this file"


def test_no_golden_file_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*.json")} == {job.stem for job in JOBS}
