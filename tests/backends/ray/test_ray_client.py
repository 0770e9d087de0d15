"""What a Ray head answers, and what a person is told of it. A real head is in tests/e2e/test_submit.py."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata

import pytest

from rayml.backends.ray import client
from rayml.backends.ray.client import JobsClient
from rayml.backends.ray.follow import Told, exit_code
from rayml.backends.ray.packing import Package
from rayml.backends.ray.request import Request
from rayml.errors import BackendError, PlanError
from rayml.run import submit
from rayml.spec.cluster import LocalCluster, RayCluster

TOKEN = "t0ken-that-nobody-may-see"
REQUEST = Request(entrypoint="true", runtime_env={}, metadata={"rayml_run": "digits-1"})


class Head:
    """Answers each path with what the test put there; keeps what it was asked."""

    def __init__(self):
        self.answers, self.asked = {}, []
        head = self

        class Handler(BaseHTTPRequestHandler):
            def do(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                head.asked.append((self.command, self.path, body, dict(self.headers)))
                found = head.answers.get((self.command, self.path), (404, b"no such thing"))
                status, answer = found.pop(0) if isinstance(found, list) else found
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def head():
    made = Head()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_package_travels_once_and_a_request_is_sent_as_it_was_shown(head):
    package = Package(b"zip")
    path = f"/api/packages/gcs/{package.name}"
    head.answers = {("PUT", path): (200, b""), ("POST", "/api/jobs/"): (200, {"submission_id": "raysubmit_1"})}
    jobs = JobsClient(head.address, TOKEN)
    jobs.upload(package)
    assert jobs.submit(REQUEST) == "raysubmit_1"
    assert [(method, body) for method, _, body, _ in head.asked] == [
        ("GET", b""), ("PUT", b"zip"), ("POST", json.dumps(REQUEST.model_dump()).encode())
    ]  # fmt: skip
    assert all(headers["Authorization"] == f"Bearer {TOKEN}" for *_, headers in head.asked)
    head.answers[("GET", path)] = (200, b"zip")
    jobs.upload(package)
    assert head.asked[-1][0] == "GET"


def test_a_head_that_was_just_started_is_asked_again(head, monkeypatch):
    monkeypatch.setattr(client, "AGENT_PAUSE_S", 0.01)
    not_yet = (500, b"No available agent to submit job, please try again later.")
    head.answers[("POST", "/api/jobs/")] = [not_yet, not_yet, (200, {"submission_id": "raysubmit_1"})]
    assert JobsClient(head.address, TOKEN).submit(REQUEST) == "raysubmit_1"
    monkeypatch.setattr(client, "AGENT_S", 0.0)
    head.answers[("POST", "/api/jobs/")] = not_yet
    with pytest.raises(BackendError, match="was answered with 500: No available agent"):
        JobsClient(head.address, TOKEN).submit(REQUEST)


@pytest.mark.parametrize(
    ("status", "answer", "token", "said"),
    [
        (401, b"no token", None, "asks for a token, and there is none here"),
        (401, b"bad", TOKEN, "refuses the token"),
        (403, b"bad", TOKEN, "refuses the token"),
        (500, b"Traceback\nValueError: broken", TOKEN, "was answered with 500: ValueError: broken"),
        (200, b"<html>", TOKEN, "its answer is not JSON"),
    ],
)
def test_what_a_head_refuses_is_a_sentence_with_what_to_do(head, status, answer, token, said):
    head.answers[("GET", "/api/jobs/")] = (status, answer)
    with pytest.raises(BackendError, match=said) as caught:
        JobsClient(head.address, token).jobs()
    assert caught.value.where == head.address
    assert caught.value.hint
    assert TOKEN not in str(caught.value)


def test_a_head_that_is_not_there_or_has_no_name():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(BackendError, match="cannot be reached: Connection refused"):
        JobsClient(address, None).jobs()
    with pytest.raises(BackendError, match="cannot be reached: its name is unknown"):
        JobsClient("http://no-such-host.invalid:8265", None).jobs()


@pytest.mark.parametrize(("theirs", "fits"), [(None, True), ("2.9.0", False), ("", False)])
def test_another_ray_is_refused_before_anything_is_sent(head, theirs, fits):
    found = metadata.version("ray") if theirs is None else theirs
    head.answers[("GET", "/api/version")] = (200, {"version": "4", "ray_version": found})
    client = JobsClient(head.address, None)
    if fits:
        client.check_version()
        return
    with pytest.raises(BackendError, match="the cluster runs Ray"):
        client.check_version()


def test_the_newest_job_of_a_run_is_found_by_its_metadata(head):
    jobs = [
        {"submission_id": "a", "start_time": 1, "status": "FAILED", "metadata": {"rayml_run": "digits-1"}},
        {"submission_id": "b", "start_time": 3, "status": "RUNNING", "metadata": {"rayml_run": "digits-1"}},
        {"submission_id": "c", "start_time": 9, "status": "RUNNING", "metadata": None},
        {"submission_id": None, "start_time": 10, "status": "RUNNING", "metadata": {"rayml_run": "digits-1"}},
    ]
    head.answers[("GET", "/api/jobs/")] = (200, jobs)
    client = JobsClient(head.address, None)
    assert client.find("digits-1")["submission_id"] == "b"
    assert client.find("other") is None


@pytest.mark.parametrize(
    ("about", "code"),
    [
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, 0),
        ({"status": "FAILED", "driver_exit_code": 3}, 3),
        ({"status": "FAILED", "driver_exit_code": None}, 4),
        ({"status": "STOPPED"}, 130),
    ],
)
def test_how_a_job_ended_is_its_drivers_exit_code(about, code):
    assert exit_code(about) == code


def test_what_was_told_of_a_log_is_not_told_again():
    said = []
    told = Told(said.append)
    told.part(0, "one\n")
    told.part(4, "two\n")
    told.part(0, "one\ntw")  # a new connection begins anew
    told.part(6, "o\nthree\n")
    told.part(0, "one\ntwo\nthree\nfour\n")
    assert "".join(said) == "one\ntwo\nthree\nfour\n"


def test_a_target_is_a_cluster_elsewhere(head):
    file = RayCluster(kind="ray", address="http://file:8265", storage="/shared", cpus=8)
    assert submit.target(file, None, None) == file
    assert submit.target(file, "http://typed:8265", "s3://b/p").address == "http://typed:8265"
    alive = {"state": "ALIVE", "resources_total": {"CPU": 3.0, "GPU": 1.0}}
    nodes = [alive, alive, {"state": "DEAD", "resources_total": {"CPU": 8.0}}, {"state": "ALIVE"}]
    head.answers[("GET", "/api/v0/nodes?detail=1")] = (200, {"data": {"result": {"result": nodes}}})
    found = submit.target(None, head.address, "/shared")
    assert (found.cpus, found.gpus) == (6, 2)
    for cluster, address, storage in ((LocalCluster(), None, None), (None, head.address, None), (None, None, "/s")):
        with pytest.raises(PlanError, match="a cluster that runs elsewhere"):
            submit.target(cluster, address, storage)
    with pytest.raises(PlanError, match="is no address of a dashboard"):
        submit.target(file, "ray://head:10001", None)
    with pytest.raises(PlanError, match="no address"):
        submit.target(file.model_copy(update={"address": None}), None, None)
