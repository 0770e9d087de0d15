"""What is sent to a Ray head: one command line whatever the names hold, and a package without secrets and links."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import zipfile
from pathlib import Path

import pytest

from rayml.backends.ray.packing import LARGEST, pack
from rayml.backends.ray.request import render, run_name
from rayml.backends.ray.token import find_token
from rayml.errors import BackendError, PlanError
from rayml.plan.plan import ClusterPlan, Plan, make_step

NASTY = ["; rm -rf /", "$(id)", "`id`", "a'b\"c", "two\nlines", "ü & ö | ß", "--run", "${HOME}", "x > /tmp/y", "*"]


def plan_of(job: str = "digits", code: str | None = None, key: str = "a") -> Plan:
    step = make_step("data", {"which": key}, {}, "code")
    return Plan(
        rayml="0.1.0",
        job=job,
        seed=7,
        job_file="jobs/digits.yaml",
        base="/nowhere",
        code=code,
        cluster=ClusterPlan(cpus=2, gpus=0, object_store=0, attach=True),
        steps=(step,),
    )


@pytest.mark.parametrize("text", NASTY)
def test_nothing_gets_out_of_its_quotes(text):
    request, _ = render(plan_of(), f"s3://bucket/{text}", text)
    argv = shlex.split(request.entrypoint)
    assert argv[-3:] == [f"s3://bucket/{text}", "--run", text]
    assert argv[:3] == ["python", "-m", "rayml.run.cluster_entry"]
    told = subprocess.run(
        ["bash", "-c", request.entrypoint.replace("python -m rayml.run.cluster_entry", "printf '%s\\0'", 1)],
        capture_output=True,
        check=True,
    )
    assert told.stdout.decode().split("\0")[:-1] == argv[3:], "the shell sees the same arguments and runs nothing"


def test_a_run_is_named_by_its_job_and_the_keys_of_its_steps():
    assert run_name(plan_of()) == run_name(plan_of(code="/other/place"))
    assert run_name(plan_of()) != run_name(plan_of(key="b"))
    assert run_name(plan_of()).startswith("digits-")


def test_the_same_files_are_the_same_package_whenever_they_were_written(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text("x = 1\n")
    os.utime(tmp_path / "b" / "net.py", (1, 1))
    first, second = (pack("{}", tmp_path / name) for name in ("a", "b"))
    assert first.content == second.content
    assert first.uri == second.uri
    assert first.files() == ["plan.json", "code/net.py"]
    assert pack("{ }", tmp_path / "a").name != first.name


SECRET = [
    "id_rsa",
    ".env",
    ".env.prod",
    "server.pem",
    "tls.key",
    ".aws/credentials",
    ".git/config",
    ".netrc",
    "auth_token",
]


def test_secrets_caches_and_what_is_ignored_stay_here(tmp_path):
    for name in [*SECRET, "__pycache__/x.pyc", "data/large.bin", "notes.txt", "net.py", "part/inner.py"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("never to be seen")
    (tmp_path / ".rayignore").write_text("data/\n")
    (tmp_path / ".gitignore").write_text("*.txt\n")
    package = pack("{}", tmp_path)
    assert package.files() == ["plan.json", "code/.gitignore", "code/.rayignore", "code/net.py", "code/part/inner.py"]


def test_a_link_is_refused_and_one_that_is_ignored_is_not_followed(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "secret.txt").write_text("outside")
    (tmp_path / "code" / "inside").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(PlanError, match="inside is a link"):
        pack("{}", tmp_path / "code")
    (tmp_path / "code" / ".rayignore").write_text("inside\n")
    with zipfile.ZipFile(io.BytesIO(pack("{}", tmp_path / "code").content)) as archive:
        assert not any(b"outside" in archive.read(name) for name in archive.namelist())


def test_a_folder_that_is_too_large_is_said_before_anything_travels(tmp_path):
    with (tmp_path / "weights.bin").open("wb") as stream:
        stream.truncate(LARGEST + 1)
    with pytest.raises(PlanError, match=r"100 MiB and more.*100 MiB") as caught:
        pack("{}", tmp_path)
    assert ".rayignore" in caught.value.hint


def test_the_token_is_looked_for_where_ray_looks(tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("from home\n")
    (tmp_path / "named").write_text(" named ")
    assert find_token({"RAY_AUTH_TOKEN": "set", "RAY_AUTH_TOKEN_PATH": "x"}, tmp_path) == "set"
    assert find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "named")}, tmp_path) == "named"
    assert find_token({}, tmp_path) == "from home"
    assert find_token({}, tmp_path / "nobody") is None
    with pytest.raises(BackendError, match="cannot be read"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(Path(tmp_path) / "gone")}, tmp_path)
