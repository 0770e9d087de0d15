"""A RayJob through its statuses, why pods do not start, what a job prints, and how it ends."""

from __future__ import annotations

import pytest
from fake_kube import failure
from kuberay_jobs import cluster_of, plan_of

from rayml.backends.kuberay import following
from rayml.backends.kuberay.following import EXIT_OF, RunStatus, exit_code, follow, logs, phase_of, status, stop
from rayml.backends.kuberay.request import render
from rayml.backends.kuberay.sending import send
from rayml.errors import BackendError, PlanError

NAMESPACE, NAME = "rayml", "digits-1"
PHASES = [
    ({}, "sent"),
    ({"jobDeploymentStatus": "Initializing"}, "starting"),
    ({"jobDeploymentStatus": "Running", "jobStatus": "SUCCEEDED"}, "running"),
    ({"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED"}, "retrying"),
    ({"jobDeploymentStatus": "Suspended"}, "queued"),
    ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "succeeded"),
    ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "stopped"),
    ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}, "failed"),
    ({"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "DeadlineExceeded"}, "failed"),
    ({"jobDeploymentStatus": "ValidationFailed", "message": "spec"}, "refused"),
]


def pod(name, labels, **found):
    return {"kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels}, "status": found}


def put_job(kube, *statuses, **spec):
    about = {"labels": {"app.kubernetes.io/managed-by": "rayml"}, "annotations": {"rayml.io/run": NAME}}
    about |= {"name": NAME, "namespace": NAMESPACE}
    kube.put("rayjobs", {"kind": "RayJob", "metadata": about, "spec": spec})
    kube.statuses = list(statuses)


def put_submitter(kube, phase="Running"):
    kube.put("pods", pod("submitter", {"job-name": NAME}, phase=phase))


def told(api):
    lines = []
    return follow(api, NAMESPACE, NAME, lines.append, poll_s=0.05), lines


@pytest.mark.parametrize(("found", "phase"), PHASES, ids=str)
def test_phases(found, phase):
    assert phase_of({"status": found, "spec": {}}) == phase


def test_a_job_that_ray_has_not_started_is_told_so():
    assert "has not started it yet" in str(RunStatus("running", "PENDING"))
    assert str(RunStatus("running", "RUNNING")) == "running"


def test_a_job_in_a_queue_is_queued_before_it_has_a_status():
    assert phase_of({"spec": {"suspend": True}}) == "queued"
    assert str(RunStatus("queued")).startswith("queued: its queue")


def test_followed_to_its_end(kube, api):
    going = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "c"}
    put_job(kube, {}, {"jobDeploymentStatus": "Initializing"}, going, going, {**going, **PHASES[5][0]})
    put_submitter(kube)
    kube.log = ["step train", "loss 0.5 at 3", "größer"]
    end, lines = told(api)
    assert (end.phase, exit_code(end)) == ("succeeded", 0)
    assert [line for line in lines if line in kube.log] == kube.log
    assert [line for line in lines if line not in kube.log] == ["sent", "starting", "running", "succeeded"]


def test_a_log_that_breaks_off_is_told_once(kube, api, monkeypatch):
    monkeypatch.setattr(following, "POLL_S", 0.01)
    kube.cut_log_after = [2, 3]
    kube.log = [f"line {number}" for number in range(5)]
    put_job(kube, PHASES[5][0])
    put_submitter(kube)
    end, lines = told(api)
    assert end.phase == "succeeded" and lines == [*kube.log, "succeeded"]
    assert any("sinceTime=2026" in path for _, path in kube.requests)


def test_a_failure_says_why(kube, api):
    put_job(kube, {**PHASES[7][0], "message": "driver exited with 4"})
    end, lines = told(api)
    assert lines == ["failed: AppFailed: driver exited with 4"] and exit_code(end) == 4 and exit_code(end, 3) == 3


def test_why_pods_do_not_start(kube, api):
    put_job(kube, {"jobDeploymentStatus": "Initializing", "rayClusterName": "c"})
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    for number in range(2):
        kube.put("pods", pod(f"w{number}", {"ray.io/cluster": "c"}, phase="Pending", conditions=[condition]))
    waiting = {"name": "ray-head", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    kube.put("pods", pod("head", {"ray.io/cluster": "c"}, phase="Pending", containerStatuses=[waiting]))
    starting = {"name": "ray", "state": {"waiting": {"reason": "ContainerCreating"}}}
    kube.put("pods", pod("w2", {"ray.io/cluster": "c"}, phase="Pending", containerStatuses=[starting]))
    found = status(api, NAMESPACE, NAME)
    assert found.trouble == (
        f"2 pods: no node for it: {message}",
        "1 pod: ray-head waits, ErrImagePull: not found",
    ) or found.trouble == ("1 pod: ray-head waits, ErrImagePull: not found", f"2 pods: no node for it: {message}")
    assert "Insufficient nvidia.com/gpu" in str(found)


def test_one_that_is_gone(kube, api):
    end, _ = told(api)
    assert end.phase == "gone" and exit_code(end) == 130


def test_a_log_that_may_not_be_read_does_not_end_it(kube, api, monkeypatch):
    def refused(*_, **__):
        raise BackendError("you may not get pods/log")
        yield

    monkeypatch.setattr(api, "log", refused)
    put_job(kube, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, PHASES[5][0])
    put_submitter(kube)
    end, lines = told(api)
    assert end.phase == "succeeded" and any("may not get pods/log" in line for line in lines)


def test_a_server_that_is_away_for_a_moment(kube, api, monkeypatch):
    put_job(kube, PHASES[5][0])
    get, failures = api.get, [failure(503, "starting")] * 3

    def sometimes(*words):
        kube.fail_all = failures.pop() if failures else None
        return get(*words)

    monkeypatch.setattr(api, "get", sometimes)
    assert told(api)[0].phase == "succeeded"


def test_a_server_that_stays_away(kube, api):
    kube.fail_all = failure(503, "starting")
    with pytest.raises(BackendError, match="not able to answer"):
        follow(api, NAMESPACE, NAME, print, poll_s=0.0)


def test_a_refusal_ends_it(kube, api):
    kube.fail_all = failure(403, "no")
    with pytest.raises(BackendError, match="may not get rayjobs"):
        told(api)


def test_a_log_in_one_piece(kube, api):
    put_submitter(kube, "Succeeded")
    kube.log = ["a", "", " b"]
    assert list(logs(api, NAMESPACE, NAME)) == ["a", "", " b"]


def test_no_log_without_a_submitter(api):
    with pytest.raises(PlanError, match="port-forward"):
        list(logs(api, NAMESPACE, NAME))


def test_stop(kube, api):
    put_job(kube, {"jobDeploymentStatus": "Running"})
    assert stop(api, NAMESPACE, NAME) == "RayJob" and kube.kinds() == []
    with pytest.raises(PlanError, match="no such run"):
        stop(api, NAMESPACE, NAME)


@pytest.mark.parametrize("part", ["labels", "annotations"])
def test_what_is_not_this_run_is_not_stopped(kube, api, part):
    put_job(kube, {"jobDeploymentStatus": "Running"})
    kube.objects["rayjobs", NAME]["metadata"][part] = {}
    with pytest.raises(PlanError, match="no such run"):
        stop(api, NAMESPACE, NAME)
    assert kube.kinds() == ["RayJob"]


def test_a_schedule_is_stopped_by_the_name_of_its_run(kube, api):
    run = "Größe " * 8
    cluster = cluster_of({"schedule": {"cron": "0 3 * * *"}})("cpu-sweep")
    sent = send(render(plan_of("digits", "cpu-sweep"), cluster, run), api, cluster.namespace)
    assert stop(api, cluster.namespace, run) == sent.kind == "RayCronJob"


def test_every_end_has_a_code():
    assert {phase for _, phase in PHASES if phase in EXIT_OF} == set(EXIT_OF) - {"gone"}
