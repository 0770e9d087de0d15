"""A secret that is written into a job or cluster file is refused with its line, and no command repeats it."""

from __future__ import annotations

import json
import sys

import pytest
from secret_table import KINDS, RAY_TOKEN, leaks

from rayml import cli
from rayml.errors import PlanError, SpecError
from rayml.redact.shapes import shape_of
from rayml.spec.load import load_cluster, load_job

JOB = """name: {name}
seed: 7
data:
  source: {{kind: callable, function: "rows:rows", args: {args}}}
  label: {label}
task: {{kind: tabular_classification}}
model: {{kind: mlp}}
train:
  workers: 1
code: .
"""
PLAIN = {"name": "digits", "args": "{}", "label": "label"}
SHAPED = {kind: (text, secrets) for kind, (text, secrets) in KINDS.items() if shape_of(text)}


def job(tmp_path, **values):
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(**{**PLAIN, **values}))
    return path


def problems(path, *overrides):
    with pytest.raises(SpecError) as caught:
        load_job(path, overrides)
    return str(caught.value)


def test_a_job_without_one_is_read(tmp_path):
    assert (
        load_job(job(tmp_path, args='{"token_column": "a", "max_tokens": 512, "pad_token": "<pad>"}')).name == "digits"
    )


@pytest.mark.parametrize("kind", SHAPED)
@pytest.mark.parametrize(("field", "line"), [("label", 5), ("name", 1), ("args", 4)])
def test_a_shape_is_refused_at_its_line(tmp_path, kind, field, line):
    text, secrets = SHAPED[kind]
    path = job(tmp_path, **{field: json.dumps({"where": ["x", text]} if field == "args" else text)})
    said = problems(path)
    assert f"{path}:{line}: " in said
    assert "is written out" in said and "environment" in said
    assert leaks(said, secrets) == []


@pytest.mark.parametrize(
    "args", ['{"api_key": "hunter2"}', '{"db": {"password": 12345678}}', '{"hf_token": ["hunter2"]}']
)
def test_a_value_beside_a_secret_name_is_refused(tmp_path, args):
    said = problems(job(tmp_path, args=args))
    assert "a value for a name that holds a secret is written out" in said
    assert "hunter2" not in said and "12345678" not in said


def test_a_secret_in_an_override_is_refused(tmp_path):
    text, secrets = KINDS["hugging face"]
    said = problems(job(tmp_path), f"data.label={text}")
    assert "is written out" in said
    assert leaks(said, secrets) == []


def test_a_secret_that_the_environment_holds_is_known_by_its_value(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", RAY_TOKEN)
    monkeypatch.setenv("HARMLESS", KINDS["hugging face"][0])
    assert "a secret of this environment is written out" in problems(job(tmp_path, label=json.dumps(RAY_TOKEN)))
    assert "a token of Hugging Face is written out" in problems(job(tmp_path, label='"${env:HARMLESS}"'))


def test_a_cluster_file(tmp_path):
    path = tmp_path / "cluster.yaml"
    text, secrets = KINDS["aws key id"]
    path.write_text(f"kind: ray\naddress: http://h:8265\nstorage: s3://{text}:x{text[4:]}@bucket/x\ncpus: 2\n")
    with pytest.raises(SpecError, match=r"yaml:3: storage: .* is written out") as caught:
        load_cluster(path)
    assert leaks(str(caught.value), secrets) == []


@pytest.mark.parametrize("command", ["validate", "plan", "run", "submit"])
def test_every_command_ends_with_2_and_says_nothing(tmp_path, monkeypatch, capsys, command):
    text, secrets = KINDS["openai"]
    path = job(tmp_path, label=text)
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("kind: ray\naddress: http://127.0.0.1:1\nstorage: /tmp/x\ncpus: 4\n")
    there = ["--cluster", str(cluster)] if command == "submit" else []
    monkeypatch.setattr(sys, "argv", ["rayml", command, str(path), *there])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert f"{path}:5: data.label: " in err
    assert leaks(out + err, secrets) == []


def test_a_ray_request_with_a_secret_is_not_rendered(tmp_path):
    from secret_run import failed_run

    from rayml.backends.ray.request import render

    plan = failed_run(tmp_path, ["a", "b"])[0].plan()
    text, secrets = KINDS["https url"]
    for storage, run in ((text, "run"), ("s3://bucket/x", KINDS["gitlab"][0])):
        with pytest.raises(PlanError, match="is written out") as caught:
            render(plan, storage, run)
        assert leaks(str(caught.value), secrets) == []
    request, _ = render(plan, "s3://bucket/x", "digits-1")
    assert "env_vars" in request.runtime_env
