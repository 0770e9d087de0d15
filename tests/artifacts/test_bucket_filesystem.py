"""Arrow's file system reads from the server that boto3 lists, wherever that one is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from s3 import client, seaweed

from rayml.artifacts.bucket import Bucket
from rayml.artifacts.bucket_filesystem import filesystem

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION")


@pytest.fixture
def quiet(monkeypatch):
    """No setting of this machine, and nothing that is asked for one."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")


def test_a_server_that_a_profile_names(quiet, tmp_path: Path, monkeypatch):
    with seaweed(tmp_path / "weed") as server:
        client(server).create_bucket(Bucket="files")
        client(server).put_object(Bucket="files", Key="a/x.csv", Body=b"1234")
        for name in KEYS:
            monkeypatch.setenv(name, server.environment[name])
        (tmp_path / "config").write_text(f"[default]\nendpoint_url = {server.url}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        bucket = Bucket("files", "a")
        assert bucket.server() == server.url
        with filesystem(bucket).open_input_stream("files/a/x.csv") as stream:
            assert stream.read() == b"1234"


@pytest.mark.parametrize(
    ("region", "named", "found"),
    [
        ("us-east-1", None, None),
        ("eu-central-1", None, None),
        ("cn-north-1", None, None),
        ("eu-central-1", "https://minio.example.org:9000", "https://minio.example.org:9000"),
        (
            "eu-central-1",
            "https://bucket.vpce-1a2b-c3d4.s3.eu-central-1.vpce.amazonaws.com",
            "https://bucket.vpce-1a2b-c3d4.s3.eu-central-1.vpce.amazonaws.com",
        ),
    ],
)
def test_only_servers_that_are_not_the_usual_ones_of_aws_are_named(quiet, monkeypatch, region, named, found):
    monkeypatch.setenv("AWS_REGION", region)
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    if named is not None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", named)
    assert Bucket("files").server() == found
