"""Who submitted what: the record in a folder and in a bucket, what is in it, and what a run says of it."""

from __future__ import annotations

import io
import pwd

import pytest
from rich.console import Console

from rayml.observe.runs import Home
from rayml.observe.submissions import Submission, submissions
from rayml.plan.plan import ClusterPlan, Origin, Plan, Resources, Step
from rayml.run import submitted
from rayml.run.submitted import folder_digest, login, plan_digest, record, submission

DIGEST = "sha256:" + "1" * 64
IMAGE = f"registry.example/rayml@{DIGEST}"


@pytest.fixture
def plan(tmp_path):
    code = tmp_path / "modules"
    code.mkdir()
    (code / "netz.py").write_text("WIDTH = 8\n")
    step = Step(name="data", config={}, inputs={}, code="c", key="k" * 64, resources=Resources())
    return Plan(
        rayml="0", job="größe", seed=7, job_file="j.yaml", base="/", code=str(code),
        cluster=ClusterPlan(cpus=2, gpus=0, object_store=80 * 2**20), steps=(step,),
        origin=Origin(job={}, cluster={"image": IMAGE}, facts={"nan": float("nan")}),
    )  # fmt: skip


def console():
    return Console(file=io.StringIO(), width=300)


def test_a_record_says_who_where_when_and_what(plan, tmp_path):
    storage = tmp_path / "storage"
    record(submission(plan, "digits-1", "kuberay", str(storage), IMAGE, [{"kind": "RayJob"}]), console())
    (found,) = submissions(storage / "runs" / "digits-1")
    assert found.user == login() and found.host and found.time.endswith("+00:00")
    assert (found.image, found.cluster, found.storage) == (IMAGE, "kuberay", str(storage))
    assert found.plan == plan_digest(plan) and found.code == folder_digest(tmp_path / "modules")
    assert len(found.request) == len(found.rayml_code) == 64
    assert f"by {found.user} at {found.host} with rayml" in str(found) and IMAGE in str(found)


def test_the_user_is_not_what_the_environment_says(monkeypatch):
    monkeypatch.setenv("LOGNAME", "somebody else")
    monkeypatch.setenv("USER", "somebody else")
    assert login() != "somebody else"
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    assert login().isdigit()


def test_records_are_added_and_never_changed(plan, tmp_path):
    for _ in range(3):
        record(submission(plan, "digits-1", "ray", str(tmp_path), None, {}), console())
    folder = tmp_path / "runs" / "digits-1"
    assert len(submissions(folder)) == 3
    assert not Home(tmp_path).runs(), "a run that never began is not listed"
    (folder / "submitted" / "a.json").write_text("{")
    assert len(submissions(folder)) == 3, "one that cannot be read hides no other"


def test_no_secret_is_kept(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY")
    said = submission(plan, "digits-1", "ray", str(tmp_path), None, {})
    record(said.model_copy(update={"host": "h-wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"}), console())
    (path,) = tmp_path.glob("runs/*/submitted/*.json")
    assert "wJalr" not in path.read_text()


@pytest.mark.parametrize("storage", ["/nowhere-at-all/deep/rayml", "/nowhere-at-all"])
def test_a_storage_that_only_the_cluster_sees_is_not_made_here(plan, storage):
    said = console()
    record(submission(plan, "digits-1", "ray", storage, None, {}), said)
    text = said.file.getvalue()
    assert f"this machine cannot write to {storage} (there is no such folder here)" in text


def test_a_bucket_that_cannot_be_reached_holds_nobody_up(plan, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    said = console()
    record(submission(plan, "digits-1", "kuberay", "s3://bucket/rayml", IMAGE, {}), said)
    assert "no record of who submits is kept" in said.file.getvalue()


def test_in_a_bucket_it_is_created_and_never_written_over(plan, monkeypatch):
    written = {}

    class Fake(submitted.Bucket):
        def create(self, path, content):
            assert self.timeout_s == submitted.PATIENCE_S
            assert path not in written
            written[f"{self.prefix}/{path}"] = content

    monkeypatch.setattr(submitted, "Bucket", Fake)
    record(submission(plan, "digits-1", "kuberay", "s3://bucket/team/rayml", IMAGE, {}), console())
    ((name, content),) = written.items()
    assert name.startswith("team/rayml/runs/digits-1/submitted/20") and name.endswith(".json")
    assert Submission.model_validate_json(content).image == IMAGE


def test_a_start_of_a_schedule_shows_who_submitted_the_schedule(plan, tmp_path):
    record(submission(plan, "nightly", "kuberay", str(tmp_path), IMAGE, {}), console())
    (found,) = submissions(tmp_path / "runs" / "nightly-20260307-030000-x7k9q")
    assert found.run == "nightly"


def test_the_plan_that_a_run_keeps_has_the_digest_of_the_one_that_was_sent(plan):
    kept = Plan.model_validate_json(plan.model_copy(update={"code": "/elsewhere/code"}).model_dump_json())
    assert plan_digest(kept) == plan_digest(plan)
    assert plan_digest(plan.model_copy(update={"seed": 8})) != plan_digest(plan)
