"""YAML streams, files and folders: lines, lists, limits; and no input whatever ends in a traceback."""

from __future__ import annotations

import io

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lint_manifests import MAKERS, SCHEMAS, ray_cluster

from rayml.errors import PlanError
from rayml.lint import command
from rayml.lint.documents import Document, read, read_text, resolve
from rayml.lint.finding import Finding
from rayml.lint.lint import lint, lint_documents

STREAM = """\
# two objects and an empty one
apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  type: NodePort
  ports:
    - name: web
      port: 8265
---
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata:
    name: b
  spec:
    hostNetwork: yes
    containers:
    - name: c
"""


def test_lines_and_paths_of_a_stream():
    reading = read_text(STREAM, "x.yaml")
    assert reading.findings == []
    assert [(document.kind, document.base) for document in reading.documents] == [
        ("Service", ()),
        ("Pod", ("items", 0)),
    ]
    findings = {finding.rule: finding for finding in lint(reading.documents)}
    assert str(findings["security.exposed"]).startswith("x.yaml:9: spec.ports.0.port: opens port 8265")
    host = findings["pod-security.hostNamespaces"]
    assert (host.line, host.path) == (20, "items.0.spec.hostNetwork")
    missing = findings["pod-security.seccompProfile_restricted"]
    assert (missing.line, missing.path) == (22, "items.0.spec.containers.0.securityContext.seccompProfile.type")


def test_findings_come_in_the_order_of_files_and_lines(tmp_path):
    for name in ("b.yaml", "a.yml", "sub/c.yaml", ".hidden/d.yaml", "e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(STREAM)
    findings = lint([tmp_path])
    assert [finding.order() for finding in findings] == sorted(finding.order() for finding in findings)
    files = {finding.file.removeprefix(f"{tmp_path}/") for finding in findings}
    assert files == {"b.yaml", "a.yml", "sub/c.yaml"}
    assert lint([tmp_path, tmp_path]) == findings


def test_a_file_by_name_may_have_any_suffix(tmp_path):
    (tmp_path / "e.json").write_text('{"apiVersion": "v1", "kind": "Service", "spec": {"type": "NodePort"}}')
    assert lint([tmp_path / "e.json"]) == []


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: [1", 1, "not YAML"),
        ("a: 1\n b: 2", 2, "not YAML"),
        ("a: 1\n\tb: 2", 2, "not YAML"),
        ("- a", 1, "not a Kubernetes object"),
        ("just text", 1, "not a Kubernetes object"),
        ("a: 1\na: 2", 2, "written twice, first in line 1"),
        ("a: !!python/object:os.system 1", 1, "the tag"),
        ("a: !!set {x}", 1, "the tag"),
        ("? [a]\n: 1", 1, "a key has to be one word"),
        ("a: *b", 1, "no value before this one"),
        ("a: &b [*b]", 1, "no value before this one"),
        ("a: " + "[" * 70 + "]" * 70, 1, "nested more than 64 deep"),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(f"b{n}: [*a,*a,*a,*a,*a,*a]\n" for n in range(30)), None, "aliases"),
        ("a: \x00", None, "not YAML"),
        ("a: '\x07'", None, "not YAML"),
    ],
)
def test_bad_yaml_is_a_finding(text, line, what):
    findings = read_text(text, "x.yaml").findings
    assert any(what in finding.what and line in (finding.line, None) for finding in findings), findings


def test_what_stands_before_an_error_is_still_read():
    reading = read_text(STREAM + "---\na: [1", "x.yaml")
    assert len(reading.documents) == 2
    assert len(reading.findings) == 1


def test_limits_on_bytes(tmp_path):
    (tmp_path / "big.yaml").write_bytes(b"#" * (2**20 + 1))
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9")
    findings = lint([tmp_path])
    assert [(finding.line, finding.what) for finding in findings] == [
        (None, "more than 1048576 bytes"),
        (2, "not UTF-8"),
    ]


def test_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", type("Stream", (), {"buffer": io.BytesIO(STREAM.encode())}))
    assert {finding.file for finding in lint(["-"])} == {"standard input"}


def test_aliases_and_merge_keys_are_filled_in():
    text = "base: &b {x: 1, y: 2}\nother:\n  <<: *b\n  y: 3\nmore:\n  <<: [*b, {z: 4}]\n'<<': 5\n"
    reading = read_text(text, "x.yaml")
    (document,) = reading.documents
    assert reading.findings == []
    assert document.data["other"] == {"x": 1, "y": 3}
    assert document.data["more"] == {"x": 1, "y": 2, "z": 4}
    assert document.data["<<"] == 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("yes", True), ("Off", False), ("n", False), ("~", None), ("", None), ("010", 8), ("0x1F", 31), ("0b11", 3)),
        *(("1_000", 1000), ("-7", -7), ("1e3", 1000.0), ("1.5", 1.5), (".5", 0.5), ("2.60.0", "2.60.0")),
        *(("2024-01-01", "2024-01-01"), (".inf", ".inf"), ("1e999", "1e999"), ("09", 9.0), ("0x", "0x")),
        *(("9" * 400, "9" * 400), ("1:30", "1:30"), ("0_", 0)),
    ],
)
def test_scalars_mean_what_they_mean_to_kubectl(text, value):
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


def test_quoted_scalars_stay_text():
    (document,) = read_text("a: 'yes'\nb: !!str 1\nc: ! 2\nd: !!int 3\ne: |\n  4\n", "x.yaml").documents
    assert document.data == {"a": "yes", "b": "1", "c": "2", "d": 3, "e": "4\n"}


def test_files_that_are_not_for_kubernetes(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml]\n")
    (tmp_path / "values.yaml").write_text("replicas: 1\n")
    (finding,) = lint([tmp_path])
    assert (finding.severity, finding.rule) == ("warning", "object")
    assert finding.file.endswith("values.yaml")


def test_a_path_that_does_not_exist(tmp_path):
    (tmp_path / "cluster.yaml").write_text(STREAM)
    with pytest.raises(PlanError) as error:
        read(tmp_path / "clustr.yaml")
    assert error.value.exit_code == 2
    assert f"did you mean `{tmp_path / 'cluster.yaml'}`?" in str(error.value)
    for place in (tmp_path / "none" / "x.yaml", "\0", tmp_path / "cluster.yaml" / "x"):
        with pytest.raises(PlanError):
            read(place)


def test_rendered_documents_are_named_after_themselves():
    document = ray_cluster()
    document["spec"]["rayVersion"] = 2
    assert lint_documents([document])[0].file == "RayCluster/digits"
    assert lint_documents([{}, {"kind": "Pod"}])[0].file in ("document/1", "Pod/2")


def test_the_command(tmp_path, capsys):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump_all([ray_cluster()]))
    bad.write_text(STREAM)
    assert command.run([str(good)], None, [], False) == 0
    assert capsys.readouterr().out == "0 errors, 0 warnings\n"
    assert command.run([str(bad)], None, ["RayCronJob=true"], False) == 2
    text = capsys.readouterr().out
    assert f"{bad}:9: spec.ports.0.port: opens port 8265" in text
    assert "[security.exposed]\n  use `kubectl port-forward`" in text
    assert "warning: " in text
    assert command.run([str(bad)], None, [], True) == 2
    findings = yaml.safe_load(capsys.readouterr().out)["findings"]
    assert findings[0].keys() == {"file", "line", "path", "rule", "what", "hint", "severity"}
    for paths, schemas, gates in (([], None, []), (["none.yaml"], None, []), ([str(good)], "none", [])):
        with pytest.raises(PlanError):
            command.run(paths, schemas, gates, False)


def test_warnings_alone_are_no_failure(tmp_path):
    (tmp_path / "values.yaml").write_text("replicas: 1\n")
    assert command.run([str(tmp_path)], None, [], True) == 0


def test_findings_as_text():
    assert str(Finding("a.yaml", 3, "spec.x", "r", "is wrong")) == "a.yaml:3: spec.x: is wrong"
    assert str(Finding("a.yaml", None, "", "r", "is wrong")) == "a.yaml: is wrong"


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["token", "v2", "rocksdb", "SidecarMode", "NodePort", "DeleteWorkers", "1Gi", "/dev/shm", "2.60"]),
)


def paths_of(value, path=()):
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in entries:
        yield from paths_of(inside, (*path, key))


FIELDS = sorted({path[-1] for make in MAKERS.values() for path in paths_of(make()) if path and type(path[-1]) is str})
KINDS = [*MAKERS, "Pod", "Secret", "Service", "Ingress"]
KEYS = st.one_of(st.sampled_from(FIELDS), st.text(max_size=6))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=10
)
SLOW = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@SLOW
@given(st.sampled_from(sorted(MAKERS)), st.data())
def test_any_value_at_any_place_of_a_manifest(kind, data):
    document = MAKERS[kind]()
    places = [path for path in paths_of(document) if path and path[0] not in ("kind", "apiVersion")]
    *parents, last = data.draw(st.sampled_from(places))
    place = document
    for parent in parents:
        place = place[parent]
    place[last] = data.draw(VALUES)
    schemas = SCHEMAS if SCHEMAS.is_dir() and data.draw(st.booleans()) else None
    check(lint_documents([document], schemas=schemas))


@SLOW
@given(
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6),
    st.sampled_from(KINDS),
)
def test_any_object(data, kind):
    check(lint_documents([{**data, "kind": kind, "apiVersion": "ray.io/v1" if kind in MAKERS else "v1"}]))


@SLOW
@given(st.lists(VALUES, max_size=3))
def test_any_yaml(documents):
    reading = read_text(yaml.safe_dump_all(documents, allow_unicode=True), "x.yaml")
    check([*reading.findings, *lint(reading.documents)])


@SLOW
@given(st.text(st.sampled_from("ab: -[]{}\n&*!'\"|>#%@,?~<\t1.e\\"), max_size=60))
def test_any_text(text):
    reading = read_text(text, "x.yaml")
    check([*reading.findings, *lint(reading.documents)])


@SLOW
@given(st.binary(max_size=80))
def test_any_bytes(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "x.yaml"
    path.write_bytes(data)
    check(lint([path]))


def check(findings):
    assert all(isinstance(finding, Finding) and finding.what for finding in findings)
    assert all("\n" not in str(finding) for finding in findings)
    command.to_text(findings)
    command.to_json(findings)


def test_a_document_may_have_no_lines():
    assert Document({"a": 1}, "x").line_of(("a",)) is None
