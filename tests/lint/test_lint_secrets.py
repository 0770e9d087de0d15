"""Secrets in manifests are found by shape or by name, and no output repeats one."""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import replace

import pytest
from lint_manifests import SCHEMAS, ray_cluster, ray_job, spoiled

from rayml.lint import command
from rayml.lint.documents import read_text, rendered
from rayml.lint.lint import lint, lint_documents
from rayml.lint.security import check_security
from rayml.redact.names import is_secret_name
from rayml.redact.shapes import shape_of
from rayml.redact.text import redacted

A, D, H = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dF3gH5jK7", "0123456789" * 5, "0123456789abcdef" * 4
SHAPES = {
    "aws key id": f"AKIA{'Q7' * 8}",
    "aws session key id": f"ASIA{'Z3' * 8}",
    "hugging face": f"hf_{A[:34]}",
    "openai": f"sk-{A}",
    "openai project": f"sk-proj-{A}_{A}",
    "anthropic": f"sk-ant-api03-{A}",
    "jwt": f"eyJhbGciOiJIUzI1NiJ9.eyJ{A}.{A}",
    "pem": f"-----BEGIN PRIVATE KEY-----\n{A}\n{A}\n-----END PRIVATE KEY-----",
    "pem rsa": f"-----BEGIN RSA PRIVATE KEY-----\n{A}\n-----END RSA PRIVATE KEY-----",
    "pem openssh": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{A}",
    "pgp": f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n{A}\n-----END PGP PRIVATE KEY BLOCK-----",
    "url password": f"postgres://me:{A}@db.example.org/x",
    "redis url": f"redis://:{A}@redis:6379/0",
    "https url": f"https://oauth2:{A}@git.example.org/x.git",
    "github classic": f"ghp_{A[:36]}",
    "github app": f"ghs_{A[:36]}",
    "github fine": f"github_pat_{A}_{A}",
    "gitlab": f"glpat-{A[:20]}",
    "slack": f"xoxb-{D[:12]}-{A[:24]}",
    "slack hook": f"https://hooks.slack.com/services/T00000000/B00000000/{A[:24]}",
    "google": f"AIza{A[:35]}",
    "google oauth": f"ya29.{A}",
    "stripe": f"sk_live_{A[:24]}",
    "stripe restricted": f"rk_live_{A[:24]}",
    "pypi": f"pypi-AgEIcHlwaS5vcmc{A}",
    "npm": f"npm_{A[:36]}",
    "sendgrid": f"SG.{A[:22]}.{A}",
    "azure": f"DefaultEndpointsProtocol=https;AccountKey={A}{A}==",
    "databricks": f"dapi{H[:32]}",
    "digitalocean": f"dop_v1_{H}",
    "docker": f"dckr_pat_{A[:27]}",
    "vault": f"hvs.{A}",
    "nvidia": f"nvapi-{A}",
    "age": f"AGE-SECRET-KEY-1{A.upper()}",
    "bearer": f"Authorization: Bearer {A}",
}
CONTAINER = "spec/headGroupSpec/template/spec/containers/0"
PLACES = {
    "an env value": lambda secret: {f"{CONTAINER}/env": [{"name": "X", "value": secret}]},
    "an argument": lambda secret: {f"{CONTAINER}/args": ["--key", secret]},
    "an enum": lambda secret: {"spec/authOptions/mode": secret},
    "a quantity": lambda secret: {f"{CONTAINER}/resources/limits/memory": secret},
    "a key": lambda secret: {"spec/upgradeStrategy": {secret: 1}},
    "a name": lambda secret: {"metadata/name": secret},
    "an annotation": lambda secret: {"metadata/annotations": {"a": secret}},
    "a label": lambda secret: {"spec/headGroupSpec/labels": {"a": secret}},
    "an image": lambda secret: {f"{CONTAINER}/image": secret},
    "a start parameter": lambda secret: {"spec/headGroupSpec/rayStartParams/x": secret},
    "a version": lambda secret: {"spec/rayVersion": secret},
    "a wrong type": lambda secret: {"spec/workerGroupSpecs": secret},
}


def test_there_are_thirty_shapes():
    assert len(SHAPES) >= 30


def pieces(secret):
    """Parts of a secret that are long enough to tell of it."""
    longest = max(re.split(r"[\s:/@=|]+", secret), key=len)
    return {longest[at : at + 10] for at in range(len(longest) // 3, len(longest) - 9)}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_found_and_never_repeated(shape):
    secret = SHAPES[shape]
    assert shape_of(secret), shape
    documents = []
    for place, change in PLACES.items():
        document = rendered(spoiled(ray_cluster(), change(secret)), 1)
        documents.append(replace(document, file=f"{place}: {document.file}"))
    findings = lint(documents, schemas=SCHEMAS if SCHEMAS.is_dir() else None)
    assert {each.file for each in findings if each.rule == "security.secret"} == {each.file for each in documents}
    text = command.to_text(findings) + command.to_json(findings)
    assert [piece for piece in pieces(secret) if piece in text] == []


@pytest.mark.parametrize(
    "text", ["-eyJaaaaa", "-----BEGIN A", "://a:", "SG.", "Bearer ", "sk-", "xoxb-", "AKIA", "hf_ "]
)
def test_a_long_text_is_searched_in_one_pass(text):
    start = time.process_time()
    redacted(text * (2**20 // len(text)))
    assert time.process_time() - start < 5


def test_a_syntax_error_next_to_a_secret_does_not_show_it():
    text = f"a: [1\nb: {SHAPES['openai']}: {SHAPES['jwt']}\n&{SHAPES['hugging face']} *{SHAPES['hugging face']}"
    reading = read_text(text, "x.yaml")
    assert reading.findings
    assert A[:16] not in "".join(map(str, reading.findings))


NAMES = {
    "HF_TOKEN": True,
    "AWS_SECRET_ACCESS_KEY": True,
    "DB_PASSWORD": True,
    "dbPassword": True,
    "WANDB_API_KEY": True,
    "PRIVATE_KEY": True,
    "MYSECRET": True,
    "redis-password": True,
    "TOKEN": True,
    "GITHUB_TOKEN_READONLY": True,
    "RAY_AUTH_TOKEN": True,
    "CLIENT_SECRET": True,
    "RAY_AUTH_TOKEN_PATH": False,
    "AWS_WEB_IDENTITY_TOKEN_FILE": False,
    "MAX_NEW_TOKENS": False,
    "TOKENIZERS_PARALLELISM": False,
    "RAY_AUTH_MODE": False,
    "secretName": False,
    "KEY": False,
    "PWD": False,
    "DB_PWD": True,
    "TOKEN_COUNT": False,
    "SORT_KEY": False,
    "": False,
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    assert is_secret_name(name) is NAMES[name]


def secrets(document):
    return [remark for remark in check_security(rendered(document, 1)) if remark.rule == "security.secret"]


LITERALS = [
    {f"{CONTAINER}/env": [{"name": "HF_TOKEN", "value": "hunter2"}]},
    {f"{CONTAINER}/env": [{"name": "DB_PASSWORD", "value": 12345678}]},
    {"spec/headGroupSpec/rayStartParams/redis-password": "hunter2"},
    {"spec/gcsFaultToleranceOptions": {"redisPassword": {"value": "hunter2"}}},
    {"spec/autoscalerOptions": {"env": [{"name": "API_KEY", "value": "hunter2"}]}},
    {"metadata/annotations": {"example.org/password": "hunter2"}},
]
REFERENCES = [
    {f"{CONTAINER}/env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}]},
    {f"{CONTAINER}/env": [{"name": "HF_TOKEN", "value": "$(OTHER)"}]},
    {f"{CONTAINER}/env": [{"name": "HF_TOKEN", "value": ""}]},
    {"spec/headGroupSpec/rayStartParams/redis-password": "$REDIS_PASSWORD"},
    {f"{CONTAINER}/env": [{"name": "HF_TOKEN_PATH", "value": "/var/run/secrets/hf"}]},
    {f"{CONTAINER}/env": [{"name": "MAX_NEW_TOKENS", "value": "512"}]},
    {f"{CONTAINER}/image": f"registry.example.org:5000/a/b@sha256:{H}"},
    {f"{CONTAINER}/args": ["https://example.org/a:b@c", "s3://bucket/sk-learn/model", "risk-assessment-of-something"]},
]


@pytest.mark.parametrize("changes", LITERALS)
def test_a_literal_for_a_secret_name(changes):
    document = spoiled(ray_cluster(), changes)
    (remark,) = secrets(document)
    text = command.to_text(lint_documents([document]))
    assert remark.severity == "error"
    assert "hunter2" not in text and "12345678" not in text


@pytest.mark.parametrize("changes", REFERENCES)
def test_a_reference_is_no_secret(changes):
    assert secrets(spoiled(ray_cluster(), changes)) == []


def test_embedded_yaml_is_read():
    document = spoiled(ray_job(), {"spec/runtimeEnvYAML": "env_vars: {HF_TOKEN: hunter2}"})
    assert [remark.path for remark in secrets(document)] == [("spec", "runtimeEnvYAML")]
    assert secrets(spoiled(ray_job(), {"spec/runtimeEnvYAML": "env_vars: {OMP_NUM_THREADS: '1'}"})) == []
    assert secrets(spoiled(ray_job(), {"spec/runtimeEnvYAML": "env_vars: ["})) == []
    assert secrets(spoiled(ray_job(), {"spec/runtimeEnvYAML": "a: \ud800"})) == []
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    assert secrets(spoiled(ray_job(), {"spec/runtimeEnvYAML": laughs})) == []


def test_the_values_of_a_secret_are_not_in_the_manifests():
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "stringData": {"x": "hunter2"}}
    (finding,) = lint_documents([document])
    assert finding.path == "stringData.x"
    assert "hunter2" not in json.dumps(finding.to_json())
    assert lint_documents([{**document, "stringData": {}}]) == []


def test_files_that_are_not_for_kubernetes_are_searched_too():
    (document,) = read_text(
        f"env:\n- name: HF_TOKEN\n  value: hunter2\nkey: {SHAPES['openai']}\n", "values.yaml"
    ).documents
    found = [finding for finding in lint([document]) if finding.rule == "security.secret"]
    assert [(finding.line, finding.path) for finding in found] == [(3, "env.0.value"), (4, "key")]


def test_base64_in_a_config_map_is_read():
    data = base64.b64encode(SHAPES["pem"].encode()).decode()
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "binaryData": {"k": data, "b": "!"}}
    (finding,) = lint_documents([document])
    assert finding.path == "binaryData.k"


def test_redaction_keeps_what_is_no_secret():
    assert redacted("spec.rayVersion: 2.60.0 is fine") == "spec.rayVersion: 2.60.0 is fine"
    assert A not in redacted(f"a {SHAPES['openai']} b")
