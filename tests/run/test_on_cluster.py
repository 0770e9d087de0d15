"""A run on a cluster, without the cluster: its place in the storage, who works on it, what is read of it later."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest

from rayml import __version__
from rayml.errors import PlanError
from rayml.observe.runs import Home, NoSuchRun
from rayml.plan.plan import ClusterPlan, Plan, make_step
from rayml.run.on_cluster import bring_code, read_plan, refuse_other_versions, run_on_cluster
from rayml.run.records import describe_run, list_runs
from rayml.run.storage import FolderStorage, create_or_resume, ended_with, open_storage, run_folder


def make_plan(job="digits", code=None, rayml=__version__, ray=""):
    return Plan(
        rayml=rayml,
        ray=ray,
        job=job,
        seed=7,
        job_file="jobs/digits.yaml",
        base="/nowhere",
        code=code,
        cluster=ClusterPlan(cpus=2, gpus=0, object_store=0, attach=True),
        steps=(make_step("data", {}, {}, "code"), make_step("train", {}, {"data": "d"}, "code")),
    )


@pytest.fixture
def sent(tmp_path):
    path = tmp_path / "sent" / "plan.json"
    path.parent.mkdir()
    path.write_text(make_plan().model_dump_json())
    return path


def test_one_driver_works_on_a_run(sent, tmp_path):
    storage = FolderStorage(tmp_path / "storage")
    with storage.claim("digits-1") as alone:
        assert alone
        with pytest.raises(PlanError, match="another driver works on this run") as caught:
            run_on_cluster(str(sent), str(tmp_path / "storage"), "digits-1")
    assert "rayml logs digits-1" in caught.value.hint
    with storage.claim("digits-1") as alone:
        assert alone, "who is done lets go"


def test_a_plan_that_cannot_be_read_or_is_of_another_version_is_said(sent, tmp_path):
    with pytest.raises(PlanError, match="cannot be read: No such file"):
        read_plan(tmp_path / "gone.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(PlanError, match="holds no plan"):
        read_plan(tmp_path / "broken.json")
    sent.write_text(make_plan(rayml="9.9").model_dump_json())
    with pytest.raises(PlanError, match=r"made by rayml 9\.9, and the cluster has"):
        run_on_cluster(str(sent), str(tmp_path / "storage"), "digits-1")
    sent.write_text(make_plan(ray="1.13.0").model_dump_json())
    with pytest.raises(PlanError, match=r"made beside Ray 1\.13\.0, and the cluster runs") as caught:
        run_on_cluster(str(sent), str(tmp_path / "storage"), "digits-1")
    assert "give the cluster an image with yours" in caught.value.hint
    assert not (tmp_path / "storage").exists()
    refuse_other_versions(make_plan(ray=version("ray").rpartition(".")[0] + ".99"))


def test_a_run_goes_on_with_its_first_plan_and_has_the_code_beside_it(tmp_path):
    (tmp_path / "sent" / "code").mkdir(parents=True)
    (tmp_path / "sent" / "code" / "net.py").write_text("x = 1\n")
    home = Home(tmp_path / "storage")
    for job in ("digits", "other"):
        folder = create_or_resume(home, "digits-1", make_plan(job, code="code"))
        bring_code(folder, tmp_path / "sent")
    assert folder.plan().job == "digits"
    assert folder.plan().code == str(folder.path / "code")
    assert (folder.path / "code" / "net.py").read_text() == "x = 1\n"


def write_events(home, run, *events):
    folder = create_or_resume(home, run, make_plan())
    with folder.events_path.open("a") as stream:
        for number, (kind, fields) in enumerate(events):
            stream.write(json.dumps({"t": 1000.0 + number, "kind": kind, **fields}) + "\n")
    return folder


STARTED = ("run_started", {"run": "x", "job": "digits"})
DATA = ("step_done", {"step": "data", "key": "k", "seconds": 2.5, "metrics": {}})
TRAINS = ("step_started", {"step": "train", "key": "k", "attempt": 1})
DONE = ("run_done", {"status": "done", "exit_code": 0, "error": None, "seconds": 3.0})


def test_what_a_run_is_comes_from_its_last_driver(tmp_path):
    home = Home(tmp_path)
    assert list_runs(None, tmp_path) == []
    assert ended_with(str(tmp_path), "digits-1") is None
    write_events(home, "digits-1", STARTED, DATA, DONE)
    assert ended_with(str(tmp_path), "digits-1") == ("done", 0)
    folder = write_events(home, "digits-1", STARTED, DATA, TRAINS)
    assert ended_with(str(tmp_path), "digits-1") is None, "the end that is there is of an earlier driver"
    assert describe_run(None, tmp_path, "digits")["status"] == "interrupted"
    with folder.held():
        described = describe_run(None, tmp_path, "digits")
    assert (described["status"], described["step"], described["exit_code"]) == ("running", "train", None)
    assert [(step["name"], step["status"], step["seconds"]) for step in described["steps"]] == [
        ("data", "done", 2.5),
        ("train", "running", None),
    ]
    (folder.path / "logs").mkdir()
    (folder.path / "logs" / "train-rank-0.log").write_text("hello")
    assert describe_run(None, tmp_path, "digits")["logs"] == ["logs/train-rank-0.log"]
    with pytest.raises(NoSuchRun, match="no run 'wine'"):
        describe_run(None, tmp_path, "wine")


def test_a_storage_is_a_folder_or_a_bucket(tmp_path):
    assert run_folder(open_storage(str(tmp_path)).home, "r").path == tmp_path / "runs" / "r"
    assert run_folder(open_storage(f"file://{tmp_path}").home, "r").path == tmp_path / "runs" / "r"
    with pytest.raises(PlanError):
        open_storage("gs://bucket/prefix")
    reading, writing = (open_storage("s3://bucket/prefix", to_read=way) for way in (True, False))
    assert reading.home.root != writing.home.root, "a reader never writes over what a driver writes"
