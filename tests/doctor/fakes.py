"""What stands where a probe looks: an nvidia-smi that prints a recording, a Ray head, an S3 server of another time."""

from __future__ import annotations

import contextlib
import json
import platform
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded"


def install_nvidia_smi(folder: Path, monkeypatch, query: str, topology: str = "") -> None:
    """A command of that name, first in PATH, which prints a recording and fails as the real one does with a text."""
    folder.mkdir(exist_ok=True)
    script = folder / "nvidia-smi"
    code = 0 if query.endswith(".xml") else 9
    drawn = f"cat {RECORDED / topology}" if topology else "true"
    script.write_text(f'#!/bin/sh\nif [ "$1" = topo ]; then {drawn}; exit 0; fi\ncat {RECORDED / query}\nexit {code}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def torch_said(**changed: Any) -> str:
    """What rayml.doctor.torch_side prints, with 8 GPUs."""
    build = {"torch": "2.14.1+cu130", "cuda": "13.0", "nccl": "2.30.7", "nccl_loaded": "2.30.7", "gpus": 8}
    reduced = {"backend": "nccl", "mib": 256, "gb_per_s": 321.0} if "reduced" not in changed else changed.pop("reduced")
    return f"{json.dumps({'build': build | changed})}\nNCCL version 2.30.7\n{json.dumps({'all_reduce': reduced})}\n"


def versions_here() -> dict[str, str]:
    """What the job of the doctor prints on a cluster that is as this machine."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in ("rayml", "ray", "torch")}}


@dataclass
class FakeHead:
    """A head with one node. It asks for a token where it has one, and runs no job: each prints `versions`."""

    token: str | None = None
    ray: str = field(default_factory=lambda: metadata.version("ray"))
    versions: dict[str, str] = field(default_factory=versions_here)
    ahead_s: float = 0.0
    """Of its clock against ours."""
    submitted: list[dict[str, Any]] = field(default_factory=list)
    address: str = ""

    def answer(self, method: str, path: str) -> dict[str, Any]:
        node = {"node_id": "a", "is_head_node": True, "state": "ALIVE", "resources_total": {"CPU": 2.0, "GPU": 1.0}}
        return {
            "/api/version": {"version": "4", "ray_version": self.ray, "ray_commit": "c"},
            "/api/v0/nodes?detail=1": {"data": {"result": {"result": [node]}}},
            "/api/jobs/": {"submission_id": "raysubmit_1"},
            "/api/jobs/raysubmit_1": {"status": "SUCCEEDED"},
            "/api/jobs/raysubmit_1/logs": {
                "logs": f"Running {self.submitted} rayml-doctor ' +\nrayml-doctor {json.dumps(self.versions)}\n"
            },
            "/api/healthz": {},
        }[path]


@contextlib.contextmanager
def serving(head: FakeHead) -> Iterator[FakeHead]:
    """The head, while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() + head.ahead_s, usegmt=True)

        def do_GET(self) -> None:
            shown = self.headers.get("Authorization")
            length = int(self.headers.get("Content-Length") or 0)
            if length:
                head.submitted.append(json.loads(self.rfile.read(length)))
            if head.token and self.path != "/api/healthz" and shown != f"Bearer {head.token}":
                self.send_response(403 if shown else 401)
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(head.answer(self.command, self.path)).encode())

        do_POST = do_GET

    with answering(Handler) as address:
        head.address = address
        yield head


@contextlib.contextmanager
def s3_with_clock(ahead_s: float) -> Iterator[str]:
    """A server that keeps objects in memory, with conditional writes, and says another time; its address."""
    objects: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() + ahead_s, usegmt=True)

        def say(self, code: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for name, value in ({"ETag": '"1"', "Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            refused = self.headers.get("If-Match", '"1"') != '"1"' or (
                self.headers.get("If-None-Match") == "*" and self.path in objects
            )
            if refused:
                self.say(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            objects[self.path] = b"rayml doctor"
            self.say(200)

        def do_GET(self) -> None:
            listing = b'<?xml version="1.0"?><ListBucketResult><Name>b</Name></ListBucketResult>'
            self.say(200, listing if "list-type" in self.path else objects[self.path])

        def do_DELETE(self) -> None:
            objects.pop(self.path, None)
            self.say(204)

    with answering(Handler) as address:
        yield address
    assert not objects, "the doctor left an object behind"


@contextlib.contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server on a free port; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
