"""The JSON Schema that editors use agrees with the loader."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rayml.errors import SpecError
from rayml.spec.load import load_job, read_tree
from rayml.spec.schema import cluster_schema, job_schema

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
CLUSTERS = sorted((ROOT / "cluster").glob("*.yaml"))


def errors_of(schema: dict[str, Any], path: Path) -> list[str]:
    jsonschema.Draft202012Validator.check_schema(schema)
    tree, problems = read_tree(path)
    assert problems == []
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(tree.plain())]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_shipped_jobs_fit(path: Path) -> None:
    assert errors_of(job_schema(), path) == []


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_shipped_clusters_fit(path: Path) -> None:
    assert errors_of(cluster_schema(), path) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("name: digits\nseed", "name: Zähler\nseed"),
        ("seed: 7", "sead: 7"),
        ("seed: 7", "seed: seven"),
        ("seed: 7", "seed: true"),
        ("workers: 2", "workers: 0"),
        ("workers: 2", "workers: many"),
        ("kind: adamw, lr: 2.0e-3", "kind: adamm"),
        ("kind: adamw, lr: 2.0e-3", "lr: 1"),
        ("kind: adamw, lr: 2.0e-3", "kind: sgd, betas: [0.9, 0.99]"),
        ("formats: [onnx]", "formats: []"),
        ('accuracy: ">= 0.95"', 'acuracy: ">= 0.95"'),
        ('accuracy: ">= 0.95"', 'accuracy: "0.95"'),
        ("min: 1", "min: 0"),
        ("  replicas: {min: 1, max: 2}", "  max_body: 10 parsecs"),
        ("  replicas: {min: 1, max: 2}", "  max_body: 0"),
    ],
)
def test_wrong_jobs_do_not_fit(job_file: Path, right: str, wrong: str) -> None:
    text = job_file.read_text(encoding="utf-8")
    assert errors_of(job_schema(), job_file) == []
    job_file.write_text(text.replace(right, wrong), encoding="utf-8")
    assert errors_of(job_schema(), job_file) != []
    with pytest.raises(SpecError):
        load_job(job_file)


def test_environment_variables_fit_where_the_loader_reads_them(job_file: Path) -> None:
    text = job_file.read_text(encoding="utf-8")
    for right, wrong in (
        ("name: digits\nseed", "name: ${env:A}\nseed"),
        ("workers: 2", "workers: ${env:B}"),
        ("{min: 1, max: 2}", '{min: "${env:C}"}\n  auth: ${env:D}'),
        ("[onnx]", '["${env:E}"]'),
        ('">= 0.95"', '">= ${env:F}"'),
    ):
        text = text.replace(right, wrong)
    job_file.write_text(text, encoding="utf-8")
    assert errors_of(job_schema(), job_file) == []
    environment = {"A": "a", "B": "3", "C": "1", "D": "none", "E": "onnx", "F": "0.5"}
    assert load_job(job_file, environ=environment).train.workers == 3


@pytest.mark.parametrize("schema", [job_schema(), cluster_schema()], ids=["job", "cluster"])
def test_an_editor_can_explain_every_field(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    silent = []
    for name, section in (("", schema), *schema["$defs"].items()):
        assert section["title"]
        assert section["description"], name
        for field, about in section.get("properties", {}).items():
            target = about.get("$ref") or next((each["$ref"] for each in about.get("anyOf", ()) if "$ref" in each), "")
            explained = schema["$defs"].get(target.rpartition("/")[2], {}).get("description")
            if field != "kind" and "description" not in about and (not explained or target.endswith("/Environment")):
                silent.append(f"{name}.{field}")
    assert silent == []
    assert not re.search(r'"gt"|"ge"|pydantic', json.dumps(schema))
