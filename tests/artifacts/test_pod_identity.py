"""Both readers of a bucket, boto3 and Arrow's C++, take the role that EKS Pod Identity hands to a pod.

EKS sets AWS_CONTAINER_CREDENTIALS_FULL_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE in each container, and an agent
answers there. Here one answers on the loopback, which both SDKs allow besides the agent's own address.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rayml.artifacts.bucket import Bucket
from rayml.artifacts.bucket_filesystem import filesystem

TOKEN = "the-token-of-the-pod"
LISTING = (
    b'<?xml version="1.0"?><ListBucketResult><Name>our-data</Name><KeyCount>1</KeyCount>'
    b"<Contents><Key>images/cat.jpg</Key><Size>5</Size></Contents></ListBucketResult>"
)
ROLE = {"AccessKeyId": "ASIAPODIDENTITY", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}


@pytest.fixture
def signed_by(tmp_path, monkeypatch) -> Iterator[list[str]]:
    """Who signed each request to the bucket, in a pod's environment."""
    signers: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            said = self.headers.get("Authorization", "nobody")
            if self.path == "/v1/credentials":
                assert said == TOKEN
                self.say(json.dumps(ROLE).encode(), "application/json")
                return
            signers.append(said.partition("Credential=")[2].partition("/")[0] or said)
            self.say(LISTING, "application/xml")

        def do_HEAD(self) -> None:
            self.say(b"", "application/xml")

        def say(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            headers = {
                "Content-Type": kind,
                "Content-Length": len(body),
                "ETag": '"1"',
                "x-amz-bucket-region": "eu-west-1",
            }
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    (tmp_path / "token").write_text(TOKEN)
    address = f"http://127.0.0.1:{server.server_port}"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{address}/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_ENDPOINT_URL": address,
        "AWS_REGION": "eu-west-1",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "absent"),
        "AWS_CONFIG_FILE": str(tmp_path / "absent"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    yield signers
    server.shutdown()
    server.server_close()


def test_boto3(signed_by):
    assert Bucket("our-data", "images").read("cat.jpg") is not None
    assert set(signed_by) == {"ASIAPODIDENTITY"}


def test_arrow(signed_by):
    from pyarrow.fs import FileSelector

    found = filesystem(Bucket("our-data", "images")).get_file_info(FileSelector("our-data/images"))
    assert [each.path for each in found] == ["our-data/images/cat.jpg"]
    assert signed_by[-1] == "ASIAPODIDENTITY"
