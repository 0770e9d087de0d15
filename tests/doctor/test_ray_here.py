"""Ray's token, its file and its switches on this machine."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from doctor.conftest import TOKEN

from rayml.artifacts.switches import UNSAFE
from rayml.doctor import ray_here
from rayml.doctor.examine import ray


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text(TOKEN)
    path.chmod(0o644)
    return path


def test_a_token_file_that_others_can_read(token_file):
    found = ray_here.token_file(False, token_file)
    assert found.status == "wrong" and f"{token_file} has mode 0644" in found.found
    assert found.hint == f"chmod 600 {token_file}, or rayml doctor --fix"
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o644


def test_it_is_fixed(token_file):
    found = ray_here.token_file(True, token_file)
    assert found.status == "ok" and "had mode 0644, and has 0600 now" in found.found
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert ray_here.token_file(False, token_file).status == "ok"


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_token_file_of_somebody_else(token_file):
    os.chown(token_file, 12345, 12345)
    found = ray_here.token_file(True, token_file)
    assert found.status == "warning" and "12345" in found.found and found.hint.startswith("chown 0 ")
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o644


def test_a_token_file_that_cannot_be_changed(token_file, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "chmod", refuse)
    found = ray_here.token_file(True, token_file)
    assert found.status == "wrong" and "Read-only file system" in found.found and "defaultMode: 256" in found.hint


def test_a_token_path_that_is_no_file_is_left_as_it_is(tmp_path):
    mode = tmp_path.stat().st_mode
    found = ray_here.token_file(True, tmp_path)
    assert found.status == "wrong" and "is no file" in found.found
    assert tmp_path.stat().st_mode == mode


def test_a_token_file_of_bytes(tmp_path):
    file = tmp_path / "token"
    file.write_bytes(b"\xff\xfe\x00")
    found = ray_here.authentication({"RAY_AUTH_TOKEN_PATH": str(file)}, tmp_path)
    assert found.status == "wrong" and f"{file}: it holds bytes that are no text" in found.found


def test_no_token_file(tmp_path):
    assert ray_here.token_file(False, tmp_path / "absent").status == "ok"


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_switches_are_refused_by_name(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    found = ray_here.unsafe_switches()
    assert found.status == "wrong" and f"{name} is on" in found.found and found.hint == f"unset {name}"
    monkeypatch.setenv(name, "0")
    assert ray_here.unsafe_switches().status == "ok"


@pytest.mark.parametrize(
    ("environ", "status", "says", "types"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "wrong", "can run code on it", "unset RAY_AUTH_MODE"),
        ({"RAY_AUTH_MODE": "tokens"}, "wrong", "RAY_AUTH_MODE=tokens", "export RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_MODE": "token"}, "wrong", "there is no token here", "ray get-auth-token --generate"),
        ({"RAY_AUTH_TOKEN_PATH": "/absent/token"}, "wrong", "/absent/token", "export RAY_AUTH_TOKEN_PATH=FILE"),
        ({}, "ok", "none here yet", ""),
        ({"RAY_AUTH_TOKEN": TOKEN}, "ok", "found in RAY_AUTH_TOKEN", ""),
    ],
)
def test_authentication(environ, status, says, types, tmp_path):
    found = ray_here.authentication(environ, tmp_path)
    assert found.status == status and says in found.found and types in found.hint
    assert TOKEN not in repr(found)


def test_a_user_without_a_home(monkeypatch):
    def refuse():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", refuse)
    found = ray(False)[1]
    assert found.status == "wrong" and "HOME is not set" in found.found and found.hint == "export HOME=/home/rayml"


def test_an_old_ray(monkeypatch):
    monkeypatch.setattr(ray_here.metadata, "version", lambda _: "2.54.1")
    found = ray_here.ray_version()
    assert found.status == "wrong" and "CVE-2026-41486" in found.found and "requirements.lock" in found.hint
