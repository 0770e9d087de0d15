"""What is rendered for each shipped job on each cluster file, whole, against tests/golden/kuberay."""

from __future__ import annotations

import copy
import json
from importlib.metadata import version
from typing import Any

import pytest
import yaml
from kuberay_jobs import CLUSTERS, JOBS, ROOT, cluster_file, plan_of

from rayml import __version__
from rayml.backends.kuberay.request import render
from rayml.backends.kuberay.text import to_yaml

GOLDEN = ROOT / "tests" / "golden" / "kuberay"
HINT = "if that is meant: pytest tests/backends/kuberay --update-golden, and read the diff"


def steady(documents: tuple[dict[str, Any], ...], artifact: str | None) -> str:
    """The documents without what changes with every edit of code, and with every version."""
    kept = copy.deepcopy(list(documents))
    for document in kept:
        for place in ("data", "binaryData"):
            for name in document.get(place, {}):
                document[place][name] = "(plan)"
    text = to_yaml(kept).replace(f"'{version('ray')}'", "(ray)").replace(f"'{__version__}'", "(rayml)")
    for form in (f"'{artifact}'", str(artifact)):
        text = text.replace(form, "(artifact)")
    return text


def compare(name: str, text: str, updates: bool) -> None:
    path = GOLDEN / f"{name}.yaml"
    if updates:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"{path} is missing; {HINT}"
    assert text == path.read_text(), HINT


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_every_job_on_every_cluster(job, cluster, updates_golden):
    plan, run = plan_of(job.stem, cluster), f"{job.stem}-0123456789"
    documents = render(plan, cluster_file(cluster), run).documents
    served = [step for step in plan.steps if step.name == "serve"]
    if served:
        documents += render(plan, cluster_file(cluster), run, "service").documents
    compare(f"{cluster}/{job.stem}", steady(documents, served[0].inputs["export"] if served else None), updates_golden)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_cluster_that_stays(cluster, updates_golden):
    request = render(plan_of("digits", cluster), cluster_file(cluster), "team", "cluster")
    compare(f"{cluster}/cluster-that-stays", steady(request.documents, None), updates_golden)


def test_no_golden_file_is_left_over():
    jobs = {job.stem for job in JOBS} | {"cluster-that-stays"}
    found = {(path.parent.name, path.stem) for path in GOLDEN.rglob("*.yaml")}
    assert found == {(cluster, job) for cluster in CLUSTERS for job in jobs}


@pytest.mark.parametrize("kind", ["job", "service", "cluster"])
def test_the_same_input_gives_the_same_text(kind):
    texts = {render(plan_of("digits", "gpu-a100"), cluster_file("gpu-a100"), "digits-1", kind).to_yaml() for _ in "ab"}
    (text,) = texts
    assert "&id" not in text and "*id" not in text
    assert list(yaml.safe_load_all(text)) == list(
        render(plan_of("digits", "gpu-a100"), cluster_file("gpu-a100"), "digits-1", kind).documents
    )


def test_the_plan_travels_whole():
    plan = plan_of("digits", "cpu-sweep")
    config, job = render(plan, cluster_file("cpu-sweep"), "digits-1").documents
    sent = json.loads(config["data"]["plan.json"])
    assert sent["steps"] == [json.loads(step.model_dump_json()) for step in plan.steps if step.name != "serve"], (
        "a RayJob has the steps that end"
    )
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "plan", "configMap": {"name": config["metadata"]["name"]}} in head["volumes"]
    assert {"name": "plan", "mountPath": "/etc/rayml", "readOnly": True} in head["containers"][0]["volumeMounts"]
    assert "/etc/rayml/plan.json" in job["spec"]["entrypoint"]
