"""A Kubernetes API server in a thread: objects by their paths, server-side apply, dry run, deletion, and pod logs.

It holds what is sent to KubeRay's schemas where those are at hand. It knows no field owners, no admission and no
garbage collector; a test names the refusals that it wants.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import time
import uuid
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema

SCHEMAS = Path(__file__).parents[4] / "shared" / "k8s-schemas"
PATH = re.compile(
    r"/(?:api|apis)/(?P<api>v1|[a-z.]+/v1)/namespaces/(?P<ns>[^/]+)/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?P<log>/log)?"
)
KINDS = {
    "configmaps": "ConfigMap", "events": "Event", "pods": "Pod", "poddisruptionbudgets": "PodDisruptionBudget",
    "rayclusters": "RayCluster", "raycronjobs": "RayCronJob", "rayjobs": "RayJob", "rayservices": "RayService",
}  # fmt: skip


RAY_VERSION = {"groupVersion": "ray.io/v1", "version": "v1"}
DISCOVERY: dict[str, Any] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{"name": "ray.io", "versions": [RAY_VERSION], "preferredVersion": RAY_VERSION}],
    },
    "/apis/ray.io/v1": {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": "ray.io/v1",
        "resources": [
            {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
            for name, kind in KINDS.items()
            if kind.startswith("Ray")
        ],
    },
}
"""What kubectl asks before it asks for an object."""


def strict(schema: Any) -> Any:
    """A structural schema that refuses fields which it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not is_open:
        closed["additionalProperties"] = False
    return closed


@cache
def schema_of(plural: str) -> jsonschema.Draft202012Validator | None:
    """None where the schema is not at hand."""
    path = SCHEMAS / f"ray.io_{plural}.json"
    if not path.exists():
        return None
    versions = json.loads(path.read_text())["spec"]["versions"]
    found = next(version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    return jsonschema.Draft202012Validator(strict(found))


def failure(code: int, message: str, **details: Any) -> tuple[int, dict[str, Any]]:
    """A Status, as the API server writes it."""
    document = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
    return code, {**document, "details": details}


class FakeKube:
    """The server and what it holds; `with FakeKube() as kube`."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        """Method and path with its query."""
        self.fail_writes: dict[int, tuple[int, Any]] = {}
        """By the number of a PATCH that is meant, or a negative one for a dry run (-1 is the first): its answer."""
        self.fail_all: tuple[int, Any] | None = None
        self.statuses: list[dict[str, Any]] = []
        """Of the RayJob, one after the other, at each look at it."""
        self.log: list[str] = []
        self.cut_log_after: list[int] = []
        """Lines after which the connection breaks, the first time that a log is read, the second time and so on."""
        self.headers: list[dict[str, str]] = []
        self.definitions: list[dict[str, Any]] = []
        """CustomResourceDefinitions, of which a page has two."""
        self.documents: dict[str, dict[str, Any]] = {}
        """What is no object, by its path."""
        self.stored_anyway = False
        """Whether a write that is to fail is stored all the same."""
        self._counts = {True: 0, False: 0}

    def __enter__(self) -> FakeKube:
        kube = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 2**16  # one packet for an answer: two wait for each other for 40 ms

            def log_message(self, *_: Any) -> None:
                pass

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                kube.requests.append((self.command, self.path))
                kube.headers.append(dict(self.headers))
                parts = urlsplit(self.path)
                found = PATH.fullmatch(parts.path)
                if found and found["log"] and kube.fail_all is None:
                    return self.send_log()
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                code, document = kube.answer(self.command, parts.path, found, query, json.loads(body) if body else None)
                text = document.encode() if isinstance(document, str) else json.dumps(document).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json" if isinstance(document, dict) else "text/plain")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PATCH = do_DELETE = do_POST = handle_any

            def send_log(self) -> None:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                cut = kube.cut_log_after.pop(0) if kube.cut_log_after else -1
                for number, line in enumerate(kube.log):
                    if number == cut:
                        self.close_connection = True
                        return
                    text = f"2026-01-01T00:00:{number:02}.000000000Z {line}\n".encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
                    self.wfile.flush()
                    time.sleep(0.01)
                self.wfile.write(b"0\r\n\r\n")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def kinds(self) -> list[str]:
        """Of what is stored."""
        return sorted(each["kind"] for each in self.objects.values())

    def put(self, plural: str, document: dict[str, Any]) -> None:
        """Have an object stored."""
        document = copy.deepcopy(document)
        document["metadata"].setdefault("uid", str(uuid.uuid4()))
        self.objects[plural, document["metadata"]["name"]] = document

    def answer(self, method: str, path: str, found: Any, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if self.fail_all is not None:
            return self.fail_all
        if path in DISCOVERY:
            return 200, DISCOVERY[path]
        if path in self.documents:
            return 200, self.documents[path]
        if path == "/apis/apiextensions.k8s.io/v1/customresourcedefinitions":
            return 200, self.page(int(query.get("continue", 0)))
        if found is None or found["plural"] not in KINDS:
            return 404, "404 page not found\n"
        plural, name = found["plural"], found["name"]
        if method == "PATCH":
            return self.apply(plural, name, query, body)
        if name is None:
            wanted = query.get("labelSelector", "=").split("=")
            items = [each for (kind, _), each in self.objects.items() if kind == plural and matches(each, *wanted)]
            return 200, {"apiVersion": found["api"], "kind": f"{KINDS[plural]}List", "metadata": {}, "items": items}
        there = self.objects.get((plural, name))
        if there is None:
            return failure(404, f'{plural} "{name}" not found', kind=plural, name=name)
        if method == "DELETE":
            if (body.get("preconditions") or {}).get("uid") not in (None, there["metadata"]["uid"]):
                return failure(409, "Precondition failed: UID in precondition")
            return 200, self.objects.pop((plural, name))
        if plural == "rayjobs" and self.statuses:
            there["status"] = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return 200, there

    def page(self, first: int, size: int = 2) -> dict[str, Any]:
        more = str(first + size) if first + size < len(self.definitions) else ""
        return {"metadata": {"continue": more}, "items": self.definitions[first : first + size]}

    def apply(self, plural: str, name: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        assert query["fieldManager"] == "rayml"
        rehearsal = query.get("dryRun") == "All"
        self._counts[rehearsal] += 1
        number = -self._counts[True] if rehearsal else self._counts[False]
        refused = self.fail_writes.get(number)
        if refused and not self.stored_anyway:
            return refused
        schema = schema_of(plural)
        fault = None if schema is None else jsonschema.exceptions.best_match(schema.iter_errors(body))
        if fault is not None:
            return failure(422, f'{KINDS[plural]} "{name}" is invalid: {fault.message}', kind=KINDS[plural], name=name)
        there = self.objects.get((plural, name))
        stored = copy.deepcopy(body)
        stored["metadata"]["uid"] = there["metadata"]["uid"] if there else str(uuid.uuid4())
        if not rehearsal:
            self.objects[plural, name] = stored
        return refused or (200 if there else 201, stored)


def matches(document: dict[str, Any], key: str, value: str) -> bool:
    return not key or (document["metadata"].get("labels") or {}).get(key) == value
