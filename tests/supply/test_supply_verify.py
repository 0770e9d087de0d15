"""`rayml verify RUN`: a table of what does not fit, and what each says."""

from __future__ import annotations

import json
import shutil

import pytest
from contract.store import manifest
from typer.testing import CliRunner

from rayml.artifacts.manifest import digest
from rayml.artifacts.store import LocalStore
from rayml.cli import app
from rayml.errors import GateError
from rayml.observe.runs import Home
from rayml.plan.plan import ClusterPlan, Origin, Plan, Resources, Step
from rayml.run.provenance import made_with, modules_digest, package_digest
from rayml.run.submitted import folder_digest, submission, write
from rayml.run.verify import verify_origin
from rayml.stages.table import INNER_STAGES, STAGES

IMAGE, OTHER = (f"registry.example/rayml@sha256:{digit * 64}" for digit in "12")
KEYS = {"data": digest("data"), "train": digest("train")}
STAGE = {"data": "d" * 64, "train": "e" * 64}
NAME = "größe-1"


def steps():
    data = Step(name="data", config={}, inputs={}, code="c", key=KEYS["data"], resources=Resources())
    return data, data.model_copy(update={"name": "train", "key": KEYS["train"], "inputs": {"data": KEYS["data"]}})


@pytest.fixture
def whole(tmp_path):
    """A run as a cluster leaves it: code, plan, records; and a function that makes its artifacts."""
    sent = tmp_path / "sent"
    sent.mkdir()
    (sent / "netz.py").write_text("WIDTH = 8\n")
    (sent / "wörter.txt").write_text("a\n")
    storage = tmp_path / "storage"
    folder = storage / "runs" / NAME
    shutil.copytree(sent, folder / "code")
    plan = Plan(
        rayml="0", job="größe", seed=7, job_file="j.yaml", base="/", code=str(sent), steps=steps(),
        cluster=ClusterPlan(cpus=2, gpus=0, object_store=80 * 2**20),
        origin=Origin(job={"name": "größe"}, cluster={"image": IMAGE}, facts={"code": STAGE}),
    )  # fmt: skip
    kept = plan.model_copy(update={"code": str(folder / "code")})
    (folder / "plan.json").write_text(kept.model_dump_json())
    said = submission(plan, NAME, "kuberay", str(storage), IMAGE, {})
    write(str(storage), f"{NAME}/submitted/1.json", said.model_dump_json().encode())

    def make(run=NAME, **changes):
        store = LocalStore(storage / "artifacts")
        for step in steps():
            ran = {"image": IMAGE, "stage_code": STAGE[step.name], "user_code": modules_digest(sent)}
            ran |= changes.get(step.name, {})
            out = store.staging(step.name, step.key)
            (out / "rows.arrow").write_bytes(b"0123456789")
            ran = {name: value for name, value in ran.items() if value is not None}
            store.commit(out, manifest(step.key, step.name, inputs=step.inputs, run=run, made_with=ran))
        return storage

    return make


def verdict(storage):
    home = Home(storage)
    return verify_origin(home.find_run(NAME), LocalStore(home.artifacts))


def test_a_run_that_is_whole_has_no_fault_and_says_image_and_submitter(whole):
    found = verdict(whole())
    assert (found.checked, found.faults) == (2, [])
    assert found.notes == [f"image: {IMAGE}"]
    assert len(found.submitted) == 1 and found.submitted[0].image == IMAGE


MADE_WRONG = {
    "another image in one step": ({"train": {"image": OTHER}}, f"of this step is {OTHER}, and the plan says {IMAGE}"),
    "another rayml": ({"data": {"stage_code": "f" * 64}}, "was ffffffffffff where it ran and dddddddddddd"),
    "code changed while it ran": ({"train": {"user_code": "0" * 64}}, "was 000000000000 when it was made"),
}


@pytest.mark.parametrize("case", MADE_WRONG)
def test_what_was_made_with_something_else_is_told(whole, case):
    changes, said = MADE_WRONG[case]
    found = verdict(whole(**changes))
    assert [said in fault.what for fault in found.faults] == [True]
    assert "submit" in found.faults[0].what, "and what to do"


def edit(name, old, new):
    def change(folder):
        path = folder / name
        path.write_text(path.read_text().replace(old, new))

    return change


CHANGED_LATER = {
    "a module in the run's folder": (edit("code/netz.py", "8", "9"), ("your code", "your code", "code")),
    "a file beside it": (edit("code/wörter.txt", "a", "b"), ("code",)),
    "one that was added": (lambda folder: (folder / "code" / "x.txt").write_text(""), ("code",)),
    "the plan": (edit("plan.json", '"seed":7', '"seed":8'), ("plan.json",)),
    "what is no part of it": (lambda folder: (folder / "code" / "__pycache__").mkdir(), ()),
}


@pytest.mark.parametrize("case", CHANGED_LATER)
def test_what_was_changed_afterwards_is_told(whole, case):
    change, files = CHANGED_LATER[case]
    storage = whole()
    change(storage / "runs" / NAME)
    assert tuple(fault.file for fault in verdict(storage).faults) == files


def test_a_step_that_another_run_made_is_a_note_and_no_fault(whole):
    found = verdict(whole(run="earlier", train={"image": OTHER}))
    assert found.faults == []
    assert "made by other runs, whose image and code are checked with them: data by earlier, train by earlier" in (
        found.notes
    )


def test_artifacts_of_an_older_rayml_are_a_note(whole):
    nothing = {"image": None, "stage_code": None, "user_code": None}
    found = verdict(whole(data=nothing, train=nothing))
    assert found.faults == [] and any("an older rayml made" in note for note in found.notes)


def test_the_command_tells_all_of_it_and_ends_with_3(whole):
    storage = whole(train={"image": OTHER})
    (storage / "artifacts" / "data" / KEYS["data"][:16]).rename(storage / "away")
    done = CliRunner().invoke(app, ["verify", NAME, "--storage", str(storage)])
    assert isinstance(done.exception, GateError) and done.exception.exit_code == 3
    assert "image of this step" in str(done.exception) and "was its input and is gone" in str(done.exception)
    assert "submitted 20" in done.stdout and "by " in done.stdout


def test_the_document_has_faults_notes_and_records(whole):
    storage = whole()
    done = CliRunner().invoke(app, ["verify", NAME, "--home", str(storage), "--json"])
    document = json.loads(done.stdout)
    assert (document["artifacts"], document["faults"]) == (2, [])
    assert document["submitted"][0]["image"] == IMAGE and document["notes"]


def test_show_says_who_submitted_it(whole):
    done = CliRunner().invoke(app, ["show", NAME, "--home", str(whole())])
    assert "# submitted 20" in done.stdout and "name: gr" in done.stdout


def test_what_a_step_was_made_with(tmp_path, monkeypatch):
    (tmp_path / "netz.py").write_text("")
    monkeypatch.setenv("RAYML_IMAGE", IMAGE)
    found = made_with("data", str(tmp_path))
    assert found["image"] == IMAGE and found["package_code"] == package_digest()
    assert found["user_code"] == modules_digest(tmp_path)
    monkeypatch.delenv("RAYML_IMAGE")
    assert set(made_with("data", None)) == {"package_code", "stage_code"}
    (tmp_path / ".venv" / "lib").mkdir(parents=True)
    (tmp_path / ".venv" / "lib" / "x.py").write_text("")
    assert modules_digest(tmp_path) == found["user_code"], "an environment in the folder is not read"
    assert folder_digest(tmp_path) == folder_digest(tmp_path)


@pytest.mark.parametrize("name", [*STAGES, *INNER_STAGES])
def test_every_step_that_can_be_made_says_what_it_was_made_with(name):
    found = made_with(name, None)
    assert set(found) >= {"package_code", "stage_code"}
    assert made_with("finetune", None)["stage_code"] == made_with("train", None)["stage_code"]
