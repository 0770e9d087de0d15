"""Folders and buckets: good ones, read-only ones, full ones, wrong credentials, no server, a server of another time."""

from __future__ import annotations

import os

import pytest
from fakes import s3_with_clock
from s3 import client, free_ports, seaweed

from rayml.doctor import clock, storage


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with seaweed(tmp_path_factory.mktemp("s3")) as running:
        client(running).create_bucket(Bucket="doctor")
        yield running


@pytest.fixture
def credentials(server, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


def test_a_folder_is_well_and_left_as_it_was(tmp_path):
    found = storage.look(f"file://{tmp_path}/data", tmp_path / "cache")
    assert [each.status for each in found] == ["ok", "ok"], found
    assert "not there yet" in found[0].found and "free at" in found[1].found
    assert not (tmp_path / "data").exists() and not (tmp_path / "cache").exists()
    assert not list(tmp_path.glob(".doctor*"))


def test_a_folder_that_is_read_only(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o555)
    if os.getuid() == 0:
        tmp_path.chmod(0o755)
        above = [each for each in tmp_path.parents if not each.stat().st_mode & 0o001]
        for each in above:
            each.chmod(each.stat().st_mode | 0o011)
        os.seteuid(65534)
    try:
        (found,) = storage.folder(folder)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
            for each in above:
                each.chmod(each.stat().st_mode & ~0o011)
    assert found.status == "wrong" and found.found == f"{folder} cannot be written: Permission denied"
    assert "name a folder that you may write to" in found.hint


def test_a_file_system_that_takes_no_files():
    (found,) = storage.look("/proc/rayml", storage.Path("/proc/cache"))
    assert found.status == "wrong" and "/proc/rayml cannot be written" in found.found


@pytest.mark.parametrize(("free", "status"), [(2**29, "wrong"), (5 * 2**30, "warning"), (2**40, "ok")])
def test_free_space(tmp_path, free, status):
    found = storage.enough(tmp_path, free)
    assert found.status == status and (status == "ok" or "free some space" in found.hint)


def test_an_address_that_is_none(tmp_path):
    (found,) = storage.look("s3://key:hunter2hunter2@bucket/x", tmp_path)
    assert found.status == "wrong" and not found.unreachable
    assert "hunter2hunter2" not in repr(found) and "AWS_ACCESS_KEY_ID" in found.hint


def test_a_bucket_is_well_and_left_as_it_was(server, credentials, tmp_path):
    found = storage.look("s3://doctor/runs", tmp_path / "cache")
    assert [each.status for each in found] == ["ok", "ok"], found
    assert "written on condition" in found[0].found and found[1].name == "storage clock"
    assert "Contents" not in client(server).list_objects_v2(Bucket="doctor")


def test_wrong_credentials(server, credentials, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-that-is-wrong")
    (found,) = storage.look("s3://doctor/runs", tmp_path)
    assert found.status == "wrong" and found.unreachable and "the secret key does not fit" in found.found
    assert "AWS_SECRET_ACCESS_KEY" in found.hint
    assert "another-secret-that-is-wrong" not in repr(found)


def test_no_such_bucket(credentials, tmp_path):
    (found,) = storage.look("s3://absent/runs", tmp_path)
    assert "there is no such bucket" in found.found and "aws s3 mb s3://absent" in found.hint


def test_no_server(credentials, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    (found,) = storage.look("s3://doctor/runs", tmp_path)
    assert found.unreachable and "cannot be reached" in found.found and "AWS_ENDPOINT_URL" in found.hint


def test_a_server_that_ignores_conditions(credentials, tmp_path, monkeypatch):
    monkeypatch.setattr(storage.Bucket, "create", lambda self, path, content: self.put(path, content) or "etag")
    (found, _) = storage.look("s3://doctor/runs", tmp_path)
    assert found.status == "wrong" and "does not keep conditional writes" in found.found
    assert "If-None-Match" in found.hint


@pytest.mark.parametrize(
    ("ahead", "status", "says"), [(0, "ok", "within"), (30, "warning", "behind"), (-3600, "wrong", "ahead of")]
)
def test_the_clock_of_a_server(server, credentials, monkeypatch, tmp_path, ahead, status, says):
    with s3_with_clock(ahead) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        found = storage.look("s3://bucket/runs", tmp_path)
    assert found[0].status == "ok", found
    assert found[1].status == status and says in found[1].found
    assert status == "ok" or "timedatectl set-ntp true" in found[1].hint


def test_a_server_without_a_clock():
    assert clock.skew("clock", "the head", "").status == "warning"
