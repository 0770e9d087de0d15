"""Nothing that a person wrote gets out of its quoting: not in the shell, not in the kubelet, not in YAML."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kuberay_jobs import cluster_file, cluster_of, plan_of
from pydantic import ValidationError

from rayml.backends.kuberay.job import argv, entrypoint
from rayml.backends.kuberay.request import render
from rayml.backends.kuberay.text import to_yaml

AWKWARD = [
    "Größe überprüfen",
    "x" * 300,
    "x; rm -rf /",
    "$(id)",
    "$$(id)",
    "$(RAY_AUTH_TOKEN)",
    "${HOME}",
    "`id`",
    "a 'b' \"c\" \\ d",
    "two\nlines\n",
    "tab\tand ! bang",
    "--run",
    "12e45",
    "y",
    "#: & * {a: b}",
]


def kubelet(text: str) -> str:
    """What Kubernetes makes of an argument where `id` and others are variables (expansion/expand.go)."""
    out, rest = [], text
    while rest:
        if rest.startswith("$$"):
            out, rest = [*out, "$"], rest[2:]
        elif match := re.match(r"\$\(([^)]*)\)", rest):
            out, rest = [*out, "EXPANDED"], rest[match.end() :]
        else:
            out, rest = [*out, rest[0]], rest[1:]
    return "".join(out)


def through_bash(line: str) -> list[str]:
    """The words that bash hands to a program."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("text", AWKWARD, ids=lambda text: text[:16])
def test_the_entrypoint_is_its_argv_again(text):
    words = argv(f"s3://bucket/{text.split()[0]}", text, "/etc/rayml/plan.json")
    line = entrypoint(words)
    assert shlex.split(line) == words
    assert kubelet(line) == line
    assert through_bash(line) == words
    assert through_bash(shlex.join(shlex.split(line))) == words, "`ray job submit` quotes it again"


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=4))
def test_any_argv_passes(words):
    line = entrypoint(words)
    assert shlex.split(line) == words
    assert kubelet(line) == line


@pytest.mark.parametrize("kind", ["job", "service", "cluster"])
@pytest.mark.parametrize("text", AWKWARD, ids=lambda text: text[:16])
def test_an_awkward_name_stays_a_name(text, kind):
    plan = plan_of("digits", "cpu-sweep").model_copy(update={"job": text})
    request = render(plan, cluster_file("cpu-sweep"), text, kind)
    assert list(yaml.safe_load_all(request.to_yaml())) == list(request.documents)
    for document in request.documents:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
        assert text in document["metadata"]["annotations"].values()
        for value in document["metadata"]["labels"].values():
            assert re.fullmatch(r"[-A-Za-z0-9_.]{1,63}", value)
    if kind == "job":
        spec = request.documents[-1]["spec"]
        assert shlex.split(spec["entrypoint"])[-1] == text
        for value in [*spec["metadata"].values(), *spec["runtimeEnvYAML"].split("\n")]:
            assert not set(value) & set('$`!\\"'), "KubeRay puts it into double quotes of bash"
    if kind == "service":
        config = yaml.safe_load(request.documents[0]["spec"]["serveConfigV2"])
        assert config["applications"][0]["args"]["run"] == text


TEXT_FIELDS = {
    "namespace": lambda text: {"namespace": text},
    "image": lambda text: {"image": text},
    "storage": lambda text: {"storage": f"s3://bucket/{text}"},
    "group": lambda text: {"groups": [{"name": text, "cpus": 1, "memory": "4GiB", "max": 1}]},
    "selector key": lambda text: {"head": {"node_selector": {text: "a"}}},
    "selector value": lambda text: {"head": {"node_selector": {"a": text}}},
    "toleration": lambda text: {"head": {"tolerations": [{"key": text, "value": text}]}},
    "accounts": lambda text: {"service_account": text, "head_account": text},
    "auth": lambda text: {"auth": text},
    "secrets": lambda text: {"secrets": [text]},
    "queue": lambda text: {"queue": {"kind": "volcano", "name": text, "priority": text}},
    "redis": lambda text: {"redis": {"address": text, "password": text}},
    "schedule": lambda text: {"schedule": {"cron": text, "time_zone": text}},
    "cron": lambda text: {"schedule": {"cron": f"{text} * * * *"}},
    "gateway": lambda text: {"gateway_class": text, "upgrade": "incremental"},
}


@pytest.mark.parametrize("field", TEXT_FIELDS)
@pytest.mark.parametrize("text", AWKWARD, ids=lambda text: text[:16])
def test_an_awkward_text_in_the_cluster_file_is_refused_or_stays_text(field, text):
    try:
        cluster = cluster_of(TEXT_FIELDS[field](text))("cpu-sweep")
    except ValidationError:
        return
    for kind in ("job", "service", "cluster"):
        request = render(plan_of("digits", "cpu-sweep"), cluster, "digits-1", kind)
        assert list(yaml.safe_load_all(request.to_yaml())) == list(request.documents)
        if kind == "job":
            entry = request.documents[-1]["spec"]
            words = shlex.split(entry.get("jobTemplate", entry)["entrypoint"])
            assert words[words.index("--storage") + 1] == cluster.storage


def test_a_variable_in_the_storage_is_not_replaced():
    cluster = cluster_of({"storage": "s3://bucket/$(RAY_AUTH_TOKEN)"})("cpu-sweep")
    _, job = render(plan_of("digits", "cpu-sweep"), cluster, "digits-1").documents
    env = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    (value,) = [each["value"] for each in env if each["name"] == "RAYML_STORAGE"]
    assert kubelet(value) == cluster.storage


SCALARS = st.text(max_size=30) | st.sampled_from(
    ["12e45", "0x1F", "y", "on", "1_000", ".5", "2026-11-26", "~", "null", "a\x85b", "\u2028"]
)


@settings(max_examples=200)
@given(st.dictionaries(SCALARS, st.lists(SCALARS, max_size=3), max_size=4))
def test_any_text_round_trips_through_yaml(document):
    assert list(yaml.safe_load_all(to_yaml([document]))) == [document]


@pytest.mark.parametrize("text", ["12e45", "1234567e890123", "0x1F", "y", "N", "1e3", "+12e03", "017", "0o17"])
def test_what_kubectl_would_take_for_a_number_is_quoted(text):
    assert to_yaml([{"key": text}]) == f"---\nkey: '{text}'\n"


def test_so_is_a_run_inside_the_configuration_of_serve():
    documents = render(plan_of("digits", "cpu-sweep"), cluster_file("cpu-sweep"), "12e45", "service").documents
    assert "run: '12e45'\n" in documents[0]["spec"]["serveConfigV2"]


def test_long_text_is_a_literal_block():
    assert to_yaml([{"text": "one\ntwo\n"}]) == "---\ntext: |\n  one\n  two\n"
