"""The Jobs API of a Ray head over HTTP (Ray's dashboard/modules/job/job_head.py), and what its refusals mean.

Ray's own client imports all of Ray, which takes longer than the whole submission.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from importlib import metadata
from typing import Any
from urllib.parse import quote, urlsplit

from rayml.backends.ray.packing import Package
from rayml.backends.ray.request import RUN_KEY, Request
from rayml.errors import BackendError

TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
OVER = ("SUCCEEDED", "FAILED", "STOPPED")
"""Statuses in which a job stays."""
HTTP_OK, HTTP_UNAUTHORIZED, HTTP_FORBIDDEN, HTTP_NOT_FOUND = 200, 401, 403, 404
HTTP_SERVER_ERROR = 500
NO_AGENT = b"No available agent"
"""Nothing was started when Ray answers this (dashboard/modules/job/job_head.py)."""
AGENT_S, AGENT_PAUSE_S = 30.0, 0.5
HOW_TO_SHOW_ONE = (
    "put the cluster's token into RAY_AUTH_TOKEN, or into the file ~/.ray/auth_token; whoever started the cluster "
    "has it (ray get-auth-token on its head)"
)


class JobsClient:
    """A head, and the token to show it. Every method raises BackendError where the head does not do what is asked."""

    def __init__(self, address: str, token: str | None) -> None:
        self.address = address.rstrip("/")
        self._token = token

    def check_version(self) -> None:
        """The head runs the Ray of this machine, so that what is planned here can be run there."""
        found = str(self._json("GET", "/api/version").get("ray_version", ""))
        mine = metadata.version("ray")
        if found.split(".")[:2] != mine.split(".")[:2]:
            raise BackendError(
                f"the cluster runs Ray {found or 'of an unknown version'}, and this machine has {mine}",
                where=self.address,
                hint=f"submit from a machine with Ray {found}, or give the cluster an image with {mine}",
            )

    def upload(self, package: Package) -> None:
        """Have the package at the head; one that is there already does not travel again."""
        path = f"/api/packages/gcs/{package.name}"
        status, _ = self._ask("GET", path)
        if status == HTTP_NOT_FOUND:
            self._refuse("PUT", path, *self._ask("PUT", path, package.content))
        else:
            self._refuse("GET", path, status, b"")

    def submit(self, request: Request) -> str:
        """Start a job; its id. Waits for a head that was just started, and has no agent yet to start jobs."""
        body = json.dumps(request.model_dump(mode="json")).encode()
        give_up = time.monotonic() + AGENT_S
        while True:
            status, content = self._ask("POST", "/api/jobs/", body, "application/json")
            if status < HTTP_SERVER_ERROR or NO_AGENT not in content or time.monotonic() > give_up:
                self._refuse("POST", "/api/jobs/", status, content)
                return str(self._parsed(content)["submission_id"])
            time.sleep(AGENT_PAUSE_S)

    def job(self, job: str) -> dict[str, Any]:
        """What the head knows of a job: `status`, `message`, `driver_exit_code`, `metadata` and more."""
        found: dict[str, Any] = self._json("GET", f"/api/jobs/{quote(job)}")
        return found

    def jobs(self) -> list[dict[str, Any]]:
        """Every job that was submitted, the newest first."""
        found = [each for each in self._json("GET", "/api/jobs/") if each.get("submission_id")]
        return sorted(found, key=lambda each: -(each.get("start_time") or 0))

    def alive_nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive, by the State API (Ray's dashboard/modules/state/state_head.py)."""
        listed = self._json("GET", "/api/v0/nodes?detail=1")["data"]["result"]["result"]
        return [node for node in listed if node.get("state") == "ALIVE"]

    def cpus_and_gpus(self) -> tuple[int, int]:
        """What the nodes that are alive have in all."""
        held = [node.get("resources_total") or {} for node in self.alive_nodes()]
        return sum(int(each.get("CPU", 0)) for each in held), sum(int(each.get("GPU", 0)) for each in held)

    def find(self, run: str) -> dict[str, Any] | None:
        """The newest job of a run, or None."""
        return next((each for each in self.jobs() if (each.get("metadata") or {}).get(RUN_KEY) == run), None)

    def logs(self, job: str) -> str:
        """All that a job has printed."""
        return str(self._json("GET", f"/api/jobs/{quote(job)}/logs").get("logs", ""))

    def stop(self, job: str) -> None:
        """Ask a job to end. It gets SIGTERM, and its run says that it was interrupted."""
        self._json("POST", f"/api/jobs/{quote(job)}/stop")

    def headers(self) -> dict[str, str]:
        """What every request shows."""
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

    def _json(self, method: str, path: str, document: object = None) -> Any:
        body = None if document is None else json.dumps(document).encode()
        status, content = self._ask(method, path, body, "application/json")
        self._refuse(method, path, status, content)
        return self._parsed(content)

    def _parsed(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError:
            raise self._no_head("its answer is not JSON") from None

    def _ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/octet-stream"
    ) -> tuple[int, bytes]:
        connection = self._connect()
        try:
            headers = {**self.headers(), **({} if body is None else {"Content-Type": kind})}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.address)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=CONNECT_TIMEOUT_S, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
        except OSError as error:
            raise self._unreachable(error) from None
        if connection.sock is not None:
            connection.sock.settimeout(TIMEOUT_S)
        return connection

    def _refuse(self, method: str, path: str, status: int, content: bytes) -> None:
        """BackendError for every answer but a good one."""
        if status == HTTP_OK:
            return
        if status == HTTP_UNAUTHORIZED:
            what = "the cluster asks for a token, and there is none here" if self._token is None else REFUSED_TOKEN
            raise BackendError(what, where=self.address, hint=HOW_TO_SHOW_ONE)
        if status == HTTP_FORBIDDEN:
            raise BackendError(REFUSED_TOKEN, where=self.address, hint=HOW_TO_SHOW_ONE)
        if status == HTTP_NOT_FOUND and path.startswith("/api/jobs/") and len(path) > len("/api/jobs/"):
            raise BackendError(
                "the cluster has no such job", where=f"{self.address}{path}", hint="rayml runs lists them"
            )
        lines = content.decode(errors="replace").strip().splitlines()
        said = lines[-1][:300] if lines else "nothing"
        raise self._no_head(f"{method} {path} was answered with {status}: {said}")

    def _no_head(self, what: str) -> BackendError:
        return BackendError(
            what, where=self.address, hint="the address has to be that of a Ray head's dashboard, usually port 8265"
        )

    def _unreachable(self, error: Exception) -> BackendError:
        kinds = {socket.gaierror: "its name is unknown", TimeoutError: "it does not answer"}
        known = next((words for kind, words in kinds.items() if isinstance(error, kind)), None)
        why = known or getattr(error, "strerror", None) or str(error) or type(error).__name__
        return BackendError(
            f"the cluster cannot be reached: {why}",
            where=self.address,
            hint="check the address and that the head runs; from outside of Kubernetes: kubectl port-forward",
        )


REFUSED_TOKEN = "the cluster refuses the token that was found here"  # noqa: S105 (a sentence)
