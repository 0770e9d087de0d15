"""`rayml status`, `logs` and `stop` of a run on Kubernetes: its records where there are some, the API server else."""

from __future__ import annotations

import json
import sys
import threading
import time

import pytest
import yaml
from fake_kube import failure
from kuberay_jobs import ROOT, cluster_of, plan_of
from rich.console import Console

from rayml import cli
from rayml.backends.kuberay import following
from rayml.backends.kuberay.request import render
from rayml.backends.kuberay.sending import send
from rayml.errors import BackendError
from rayml.run import stored_events, to_kubernetes
from rayml.run.storage import open_storage
from rayml.run.stored_events import StoredEvents
from rayml.spec.kuberay import KubeRayCluster

RUN, NAMESPACE = "digits-1", "rayml"
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
FILE = str(ROOT / "cluster" / "cpu-sweep.yaml")


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """A folder in the place of the bucket of the cluster file, which takes no folder."""
    folder = tmp_path / "storage"
    monkeypatch.setattr(
        "rayml.run.places.load_cluster",
        lambda path: KubeRayCluster.model_validate(yaml.safe_load(path.read_text())).model_copy(
            update={"storage": str(folder)}
        ),
    )
    return folder


@pytest.fixture
def rayml(monkeypatch, capsys, kubeconfig, storage):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rayml", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return call


@pytest.fixture
def sent(kube, api):
    send(render(plan_of("digits", "cpu-sweep"), cluster_of({})("cpu-sweep"), RUN), api, NAMESPACE)
    kube.statuses = [RUNNING]
    return RUN


def write(storage, *events, run=RUN):
    folder = storage / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(plan_of("digits", "cpu-sweep").model_dump_json())
    with (folder / "events.jsonl").open("a") as stream:
        for number, event in enumerate(events):
            stream.write(json.dumps({"t": 1000.0 + number, **event}) + "\n")


STARTED = {"kind": "run_started", "run": RUN, "job": "digits", "job_file": "j", "rayml": "0", "host": "h"}
STEP = {"kind": "step_started", "step": "data", "key": "k", "attempt": 1}


def ended(status="done", code=0):
    return {"kind": "run_done", "status": status, "exit_code": code, "error": None, "seconds": 1.0}


def test_a_run_that_is_done_is_read_from_its_storage_alone(kube, rayml, storage):
    write(storage, STARTED, ended())
    code, out, _ = rayml("status", RUN, "--cluster", FILE)
    assert code == 0 and out.startswith("digits-1: done (exit code 0)")
    assert kube.requests == [], "the cluster is gone, or may be"


def test_before_the_driver_has_written_the_server_is_asked(kube, rayml, sent):
    kube.statuses = [{"jobDeploymentStatus": "Initializing", "rayClusterName": "c"}]
    waiting = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: Insufficient cpu"}
    about = {"name": "w", "namespace": NAMESPACE, "labels": {"ray.io/cluster": "c"}}
    kube.put("pods", {"kind": "Pod", "metadata": about, "status": {"phase": "Pending", "conditions": [waiting]}})
    code, out, _ = rayml("status", RUN, "--cluster", FILE)
    assert code == 0 and out.splitlines()[0] == "RayJob digits-1: starting"
    assert "Insufficient cpu" in out
    code, out, _ = rayml("status", RUN, "--cluster", FILE, "--json")
    document = json.loads(out)
    assert (document["run"], document["job"], document["status"], document["exit_code"]) == (
        RUN,
        "digits",
        "starting",
        None,
    )
    assert document["kubernetes"]["trouble"] == ["1 pod: no node for it: 0/3 nodes: Insufficient cpu"]


def test_a_failed_run_that_is_made_anew_is_told_with_its_records(kube, rayml, storage, sent):
    write(storage, STARTED, ended("failed", 4))
    kube.statuses = [{"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED"}]
    code, out, _ = rayml("status", RUN, "--cluster", FILE)
    assert code == 0 and "digits-1: failed (exit code 4)" in out and "RayJob digits-1: retrying" in out


def test_records_are_told_where_the_server_is_away(kube, rayml, storage):
    write(storage, STARTED, ended("failed", 3))
    kube.fail_all = failure(503, "starting")
    code, out, err = rayml("status", RUN, "--cluster", FILE)
    assert code == 0 and "digits-1: failed (exit code 3)" in out
    assert "could not be asked" in err and "503" in err


def test_neither_knows_it(kube, rayml):
    code, _, err = rayml("status", "other", "--cluster", FILE)
    assert code == 2 and "nor in the namespace rayml" in err and "rayml runs --storage" in err
    code, _, err = rayml("logs", "other", "--cluster", FILE)
    assert code == 2 and "nor in the namespace rayml" in err


def test_without_records_a_server_that_is_away_is_an_error(kube, rayml):
    kube.fail_all = failure(503, "starting")
    for command in ("status", "logs", "stop"):
        code, _, err = rayml(command, RUN, "--cluster", FILE)
        assert code == 5 and "not able to answer" in err


def test_logs_are_events_where_there_are_some_and_the_pods_else(kube, rayml, storage, sent):
    about = {"name": "submitter", "namespace": NAMESPACE, "labels": {"job-name": RUN}}
    kube.put("pods", {"kind": "Pod", "metadata": about, "status": {"phase": "Running"}})
    kube.log = ["one [red]", "two"]
    code, out, _ = rayml("logs", RUN, "--cluster", FILE)
    assert (code, out.splitlines()) == (0, ["one [red]", "two"])
    kube.statuses = [DONE]
    code, out, _ = rayml("logs", RUN, "--cluster", FILE, "--follow")
    assert code == 0 and out.splitlines() == ["one [red]", "two", "succeeded"]
    write(storage, STARTED, STEP, ended())
    code, out, _ = rayml("logs", RUN, "--cluster", FILE)
    assert code == 0 and "data" in out and "two" not in out


def test_stop(kube, rayml, sent):
    assert rayml("stop", RUN, "--cluster", FILE)[:2] == (
        0,
        "the RayJob of digits-1 was deleted; what it has made is kept\n",
    )
    assert "RayJob" not in kube.kinds()
    code, _, err = rayml("stop", RUN, "--cluster", FILE)
    assert code == 2 and "no such run" in err


def test_stop_wants_to_know_where(monkeypatch, rayml):
    monkeypatch.delenv("RAYML_ADDRESS", raising=False)
    code, _, err = rayml("stop", RUN)
    assert code == 2 and "--address http://HEAD:8265" in err


def test_a_cluster_file_of_this_machine_is_refused(rayml, tmp_path, monkeypatch):
    monkeypatch.undo()
    file = tmp_path / "local.yaml"
    file.write_text("cpus: 2\n")
    code, _, err = rayml("status", RUN, "--cluster", file)
    assert code == 2 and "leave --cluster out" in err


def test_a_schedule_and_its_starts(kube, rayml, api):
    cluster = cluster_of({"schedule": {"cron": "0 3 * * *"}})("cpu-sweep")
    made = send(render(plan_of("digits", "cpu-sweep"), cluster, RUN), api, NAMESPACE)
    about = {"name": "digits-1-x7k9q", "namespace": NAMESPACE, "ownerReferences": [{"uid": made.uid}]}
    kube.put("rayjobs", {"kind": "RayJob", "metadata": about, "spec": {}, "status": DONE})
    kube.put("rayjobs", {"kind": "RayJob", "metadata": {"name": "other", "namespace": NAMESPACE}, "spec": {}})
    code, out, _ = rayml("status", RUN, "--cluster", FILE)
    assert code == 0
    assert out.splitlines() == [
        "RayCronJob digits-1: scheduled: `0 3 * * *`, last start: never",
        "digits-1-x7k9q: succeeded",
    ]


def test_a_start_that_failed_is_told_with_its_schedule(kube, rayml, api, storage):
    cluster = cluster_of({"schedule": {"cron": "0 3 * * *"}})("cpu-sweep")
    send(render(plan_of("digits", "cpu-sweep"), cluster, RUN), api, NAMESPACE)
    write(storage, STARTED, ended("failed", 3), run=f"{RUN}-20260307-030000-x7k9q")
    code, out, _ = rayml("status", RUN, "--cluster", FILE)
    assert code == 0 and f"{RUN}-20260307-030000-x7k9q: failed (exit code 3)" in out
    assert "RayCronJob digits-1: scheduled" in out


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(stored_events, "REFRESH_S", 0.05)
    monkeypatch.setattr(following, "POLL_S", 0.05)
    monkeypatch.setattr(following.follow, "__defaults__", (0.05, None))


def submitted(storage, **changes):
    cluster = cluster_of(changes)("cpu-sweep").model_copy(update={"storage": str(storage)})
    console = Console(width=200, record=True, quiet=False)
    document = to_kubernetes.submit(plan_of("digits", "cpu-sweep"), cluster, RUN, True, console)
    return document, console.export_text()


def test_over_http_the_events_of_the_storage_are_followed(kube, kubeconfig, storage, fast):
    write(storage, STARTED, {"kind": "note", "step": "data", "text": "of an earlier driver"}, ended("failed", 4))
    kube.statuses = [{}, RUNNING, RUNNING]

    def drive():
        time.sleep(0.4)
        write(storage, STARTED, STEP, {"kind": "note", "step": "data", "text": "größer"})
        time.sleep(0.3)
        write(storage, {"kind": "note", "step": "data", "text": "last"}, ended())
        kube.statuses = [DONE]

    thread = threading.Thread(target=drive)
    thread.start()
    document, text = submitted(storage)
    thread.join()
    assert (document["status"], document["exit_code"]) == ("done", 0)
    assert "of an earlier driver" not in text
    assert [text.index(word) for word in ("running", "größer", "last", "succeeded")] == sorted(
        text.index(word) for word in ("running", "größer", "last", "succeeded")
    )


def test_over_http_a_storage_that_cannot_be_read_is_said_once(kube, kubeconfig, storage, fast, monkeypatch):
    class Away:
        def __init__(self, storage):
            self.home = storage.home

        def refresh(self, run=""):
            raise BackendError("no credentials", where="s3://b")

    monkeypatch.setattr(stored_events, "open_storage", lambda uri, to_read: Away(open_storage(uri, to_read=to_read)))
    kube.statuses = [RUNNING, RUNNING, {**DONE, "message": "as it ended"}]
    started = time.monotonic()
    document, text = submitted(storage)
    assert document["exit_code"] == 0 and text.count("no credentials") == 1
    assert "running" in text and "succeeded: as it ended" in text
    assert time.monotonic() - started < following.LAST_WORDS_S, "nobody waits for words that do not come"


def test_a_run_that_is_joined_is_told_from_its_start(storage):
    write(storage, STARTED, {"kind": "note", "step": "data", "text": "before we came"}, ended())
    console = Console(width=200, record=True)
    StoredEvents(str(storage), RUN, console, anew=False).hand_on(print, 5.0, until_closed=True)
    assert "before we came" in console.export_text()
