"""The record of who started a run; and how one is closed whose process ended by itself, was killed, or was stopped."""

from __future__ import annotations

import io

import pytest
from contract.store import manifest
from rich.console import Console

from rayml.artifacts.manifest import digest
from rayml.artifacts.store import LocalStore
from rayml.backends import local
from rayml.observe.events import EventLog
from rayml.observe.runs import Home, RunFolder
from rayml.observe.submissions import submissions
from rayml.plan.plan import ClusterPlan, Origin, Plan, Resources, Step
from rayml.plan.show import forecast
from rayml.run.launch import close_events, launch
from rayml.run.provenance import package_digest
from rayml.run.submitted import login, plan_digest
from rayml.run.verify import verify_origin

DATA = digest("data")


@pytest.fixture
def plan(tmp_path):
    """Of one step, whose code folder has something in it that nobody would want to read."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "netz.py").write_text("WIDTH = 8\n")
    step = Step(name="data", config={}, inputs={}, code="c", key=DATA, resources=Resources())
    return Plan(
        rayml="0", job="größe", seed=7, job_file="j.yaml", base="/", code=str(tmp_path / "code"), steps=(step,),
        cluster=ClusterPlan(cpus=2, gpus=0, object_store=80 * 2**20),
        origin=Origin(job={"name": "größe"}, cluster={"kind": "local"}, facts={"loss": float("nan")}),
    )  # fmt: skip


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def commit(home):
    store = LocalStore(home.artifacts)
    out = store.staging("data", DATA)
    (out / "rows.arrow").write_bytes(b"0123456789")
    facts = {"classes": ["ä", "b"], "class_counts": {"train": [3, 4]}, "shape": [8]}
    store.commit(out, manifest(DATA, "data", facts=facts, metrics={"rows": 7.0}))


def started(plan, home):
    """The run's folder, once `rayml run` has ended."""
    result, error = launch(plan, forecast(plan, LocalStore(home.artifacts), None), home, Console(file=io.StringIO()))
    return home.find_run(result["run"]), error


def test_each_start_leaves_one_record_of_who_started_what(plan, home):
    commit(home)
    for number in (1, 2):  # the same command again goes on from what is there, in a run of its own
        run, error = started(plan, home)
        assert error is None and len(home.runs()) == number
        (found,) = submissions(run.path)
        assert (found.run, found.cluster, found.storage) == (run.id, "local", str(home.root))
        assert found.user == login() and found.host and found.time.endswith("+00:00")
        assert found.rayml_code == package_digest() and found.plan == plan_digest(plan)
        assert found.code is None, "no file travels, so none is read"
        assert str(found).startswith(f"started {found.time} by {found.user} at {found.host} with rayml")
        verdict = verify_origin(run, LocalStore(home.artifacts))
        assert verdict.faults == [] and verdict.submitted == [found]
    run.plan_path.write_text(run.plan_path.read_text().replace('"seed": 7', '"seed": 8'))
    assert [fault.file for fault in verify_origin(run, LocalStore(home.artifacts)).faults] == ["plan.json"]


def test_the_record_is_written_while_the_process_starts(plan, home, monkeypatch):
    class Process:
        """A run's process that ends at the first look; it leaves no event."""

        def __init__(self, request):
            self.started = request

        def status(self):
            (run,) = home.runs()
            assert len(submissions(run.path)) == 1
            return 4

        def stop(self):
            pass

    monkeypatch.setattr(local, "submit", Process)
    run, error = started(plan, home)
    assert error.exit_code == 4 and len(submissions(run.path)) == 1


def test_a_record_that_cannot_be_written_keeps_nobody_from_running(plan, home, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    commit(home)
    monkeypatch.setattr("rayml.run.submitted.create_exclusive", full)
    run, error = started(plan, home)
    assert error is None and submissions(run.path) == []


def ends(tmp_path, before, *, asked_to_stop, exit_code=-9):
    run = RunFolder(tmp_path)
    log = EventLog(run.events_path)
    log.emit("run_started")
    if before is not None:
        log.emit("run_done", status=before, exit_code={"done": 0, "failed": 1, "interrupted": 130}[before], error=None)
    log.close()
    close_events(run, exit_code, asked_to_stop=asked_to_stop)
    return [event for event in run.events() if event["kind"] == "run_done"]


def test_a_process_that_was_killed_is_a_failure_with_a_place_to_look(tmp_path):
    (end,) = ends(tmp_path, None, asked_to_stop=False)
    assert (end["status"], end["exit_code"], end["error"]["type"]) == ("failed", 4, "StageError")
    assert "exit code -9" in end["error"]["what"]
    assert "driver.log" in end["error"]["hint"]


@pytest.mark.parametrize("before", [None, "failed", "interrupted"])
def test_a_process_that_was_asked_to_stop_did_not_fail_whatever_it_said(tmp_path, before):
    end = ends(tmp_path, before, asked_to_stop=True)[-1]
    assert (end["status"], end["exit_code"], end["error"]) == ("interrupted", 130, None)


@pytest.mark.parametrize(("before", "asked"), [("done", True), ("done", False), ("failed", False)])
def test_what_the_process_said_stands(tmp_path, before, asked):
    assert [end["status"] for end in ends(tmp_path, before, asked_to_stop=asked)] == [before]
