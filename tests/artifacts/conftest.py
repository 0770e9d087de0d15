"""A store in a bucket of a real S3 server, seen from two machines."""

from __future__ import annotations

import os
import secrets

import pytest
from s3 import STORE_BUCKET, client, seaweed

from rayml.artifacts.s3 import S3Store


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with seaweed(tmp_path_factory.mktemp("seaweed")) as running:
        client(running).create_bucket(Bucket=STORE_BUCKET)
        yield running


@pytest.fixture
def environment(server, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def prefix(environment):
    return f"tests/{secrets.token_hex(4)}"


@pytest.fixture
def store(prefix, tmp_path):
    return S3Store(STORE_BUCKET, prefix, tmp_path / "cache")


@pytest.fixture
def other(prefix, tmp_path):
    """The same place in the bucket, seen from another machine."""
    return S3Store(STORE_BUCKET, prefix, tmp_path / "other-cache")
