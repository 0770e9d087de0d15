"""What a person reads who typed something that cannot work: a sentence and the exit code, in this process."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rayml import cli
from rayml.errors import machine_failure

JOB = "jobs/digits.yaml"


@pytest.fixture
def rayml(monkeypatch, capsys, request):
    """`rayml(*arguments)` gives the exit code, standard output and standard error of the command line."""
    monkeypatch.chdir(request.config.rootpath)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rayml", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    "command",
    [("plan", JOB), ("run", JOB), ("run", JOB, "--json")],
    ids=" ".join,
)
def test_a_home_that_is_a_file_is_told(rayml, tmp_path, command):
    home = tmp_path / "größe.txt"
    home.write_text("")
    code, out, err = rayml(*command, "--home", home)
    assert code == 4
    assert out == ""
    assert re.fullmatch(rf"error: {home}/\S+: Not a directory\n  .*--home\n", err), err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_the_machine_refuses_is_a_sentence(rayml, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "refused", "/a/b")

    monkeypatch.setattr("rayml.spec.load.load_job", refuse)
    code, _, err = rayml("validate", JOB)
    assert code == 4
    assert err.startswith("error: /a/b: refused\n  ")


def test_an_error_that_may_be_ours_is_not_hidden_and_tells_no_secret(rayml, monkeypatch, capsys):
    token = "hf_" + "a1B2" * 9

    def fail(*_):
        raise OSError(errno.EBADF, f"bad file descriptor {token}")

    monkeypatch.setattr("rayml.spec.load.load_job", fail)
    monkeypatch.setattr(sys, "argv", ["rayml", "validate", JOB])
    assert machine_failure(OSError(errno.EBADF, "bad file descriptor")) is None
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "bad file descriptor" in said
    assert token not in said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("schema", "foo"), 2, "'foo' is neither job nor cluster"),
        (("serve", "digits", "--port", "80000"), 2, "--port.*less than or equal to 65535"),
        (("serve", "digits"), 2, "no run 'digits'"),
        (("predict", "localhost:1", JOB), 4, "a file of the kind `.yaml` cannot be sent"),
        (("predict", "localhost:1", "Makefile"), 4, "a file without an ending cannot be sent"),
        (("run", JOB, "--to", "tune"), 2, "tune is not a step of this job"),
        (("plan", JOB, "--set", "train.workers=4000"), 2, "4,000|4000 workers, and the cluster has"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_ends_with_its_code_and_sentence(rayml, arguments, code, words):
    found, out, err = rayml(*arguments)
    assert found == code
    assert out == ""
    assert re.search(words, err), err


def test_an_empty_home_is_not_called_whole(rayml, tmp_path):
    assert rayml("verify", "--home", tmp_path) == (0, f"no artifacts in {tmp_path}/artifacts\n", "")


def test_the_help_says_each_command_in_a_whole_sentence(rayml):
    code, out, _ = rayml("--help")
    assert code == 0
    lines = out.partition("Commands:")[2].strip().splitlines()
    assert len(lines) >= 9
    assert [line for line in lines if line.endswith("...")] == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_locale_can_print_every_name(tmp_path, encoding):
    text = Path(__file__).parents[1].joinpath(JOB).read_text()
    (tmp_path / "Größe 大.yaml").write_text(text)
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}

    def rayml(*arguments):
        command = [sys.executable, "-m", "rayml.cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=60)

    planned = rayml("plan", "Größe 大.yaml", "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout.decode(encoding))["job"] == "digits"
    absent = rayml("validate", "Grösse 大.yaml")
    assert absent.returncode == 2
    assert b"no such file" in absent.stderr
    assert b"Traceback" not in absent.stderr
