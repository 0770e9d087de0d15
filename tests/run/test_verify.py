"""What `rayml verify` and `rayml plan` say of artifacts that somebody damaged by hand."""

from __future__ import annotations

import pytest
from contract.store import manifest

from rayml.artifacts.manifest import digest
from rayml.artifacts.store import LocalStore
from rayml.observe.runs import Home
from rayml.plan.plan import ClusterPlan, Plan, Resources, Step
from rayml.plan.show import forecast
from rayml.run.verify import verify_all, verify_run

FACTS = {"classes": ["ä", "b"], "shape": [8, 8, 1]}
DATA, TRAIN = digest("data"), digest("train")


@pytest.fixture
def plan():
    data = Step(name="data", config={}, inputs={}, code="c", key=DATA, resources=Resources())
    train = data.model_copy(update={"name": "train", "key": TRAIN, "inputs": {"data": DATA}})
    cluster = ClusterPlan(cpus=2, gpus=0, object_store=80 * 2**20)
    return Plan(
        rayml="0", job="größe", seed=7, job_file="j.yaml", base="/", code=None, cluster=cluster, steps=(data, train)
    )


@pytest.fixture
def home(tmp_path, plan):
    """A run of two steps that is whole."""
    home = Home(tmp_path)
    store = LocalStore(home.artifacts)
    for step in plan.steps:
        folder = store.staging(step.name, step.key)
        (folder / "rows.arrow").write_bytes(b"0123456789")
        store.commit(folder, manifest(step.key, step.name, inputs=step.inputs, facts=FACTS, metrics={"rows": 10.0}))
    return home


def flip(path):
    path.write_bytes(b"9876543210")


def cut(path):
    path.write_bytes(path.read_bytes()[:4])


DAMAGES = {
    "file gone": (lambda files: (files / "rows.arrow").unlink(), "rows.arrow", "is missing", True),
    "file cut": (lambda files: cut(files / "rows.arrow"), "rows.arrow", "has 4 bytes, was 10", True),
    "file flipped": (
        lambda files: flip(files / "rows.arrow"),
        "rows.arrow",
        "has other bytes than were written",
        False,
    ),
    "manifest cut": (lambda files: cut(files.parent / "manifest.json"), "manifest.json", "cannot be read", True),
    "manifest gone": (lambda files: (files.parent / "manifest.json").unlink(), "manifest.json", "is missing", True),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_told_and_what_can_be_seen_is_not_used_again(home, plan, name):
    act, file, what, seen = DAMAGES[name]
    run, store = home.create_run(plan), LocalStore(home.artifacts)
    assert verify_run(run, store) == verify_all(store) == (2, [])
    act(store.find("data", DATA).path)
    checked, faults = verify_run(run, store)
    assert any(
        fault.artifact == f"data/{DATA[:16]}" and fault.file.endswith(file) and what in fault.what for fault in faults
    )
    assert checked == (1 if seen else 2)
    _, all_faults = verify_all(store)
    assert all_faults, "without a run it is told as well"
    planned = {step.name: step for step in forecast(plan, store, plan).steps}
    assert planned["data"].status == ("run" if seen else "cached")
    if seen and name != "manifest gone":
        assert planned["data"].reason == f"damaged: {file} {what}"
