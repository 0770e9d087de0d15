"""A store in a bucket of a real S3 server, seen from two machines."""

from __future__ import annotations

import secrets

import pytest
from s3 import STORE_BUCKET, bucket_here

from rayml.artifacts.s3 import S3Store


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with bucket_here(tmp_path_factory.mktemp("seaweed"), STORE_BUCKET) as running:
        yield running


@pytest.fixture
def prefix(server):
    return f"tests/{secrets.token_hex(4)}"


@pytest.fixture
def store(prefix, tmp_path):
    return S3Store(STORE_BUCKET, prefix, tmp_path / "cache")


@pytest.fixture
def other(prefix, tmp_path):
    """The same place in the bucket, seen from another machine."""
    return S3Store(STORE_BUCKET, prefix, tmp_path / "other-cache")
