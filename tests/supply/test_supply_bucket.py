"""`rayml verify RUN --storage s3://...` against a real S3 server: what it says, and how it ends."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys

import pytest
from contract.store import manifest
from s3 import client, seaweed

from rayml.artifacts.manifest import digest
from rayml.artifacts.opening import open_artifacts
from rayml.artifacts.s3 import S3Store
from rayml.cli import main
from rayml.plan.plan import ClusterPlan, Origin, Plan, Resources, Step
from rayml.run.provenance import modules_digest
from rayml.run.submitted import record, submission

BUCKET, NAME = "rayml-supply", "größe-1"
IMAGE = f"registry.example/rayml@sha256:{'1' * 64}"
DATA, TRAIN = digest("data of a bucket"), digest("train of a bucket")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with seaweed(tmp_path_factory.mktemp("seaweed")) as running:
        client(running).create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture
def storage(server, monkeypatch, tmp_path):
    """An address of its own below the bucket; what is brought from there lies in the test's folder."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**server.environment, "AWS_MAX_ATTEMPTS": "1", "TMPDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return f"s3://{BUCKET}/team/{secrets.token_hex(4)}"


@pytest.fixture
def store(storage, tmp_path):
    """A run as a cluster leaves it in the bucket: record, plan and code, artifacts. The store, as it was written to."""
    sent = tmp_path / "sent"
    sent.mkdir()
    (sent / "netz.py").write_text("WIDTH = 8\n")
    (sent / "wörter.txt").write_text("a\n")
    data = Step(name="data", config={}, inputs={}, code="c", key=DATA, resources=Resources())
    train = data.model_copy(update={"name": "train", "key": TRAIN, "inputs": {"data": DATA}})
    plan = Plan(
        rayml="0", job="größe", seed=7, job_file="j.yaml", base="/", code=str(sent), steps=(data, train),
        cluster=ClusterPlan(cpus=2, gpus=0, object_store=80 * 2**20),
        origin=Origin(job={"name": "größe"}, cluster={"image": IMAGE}, facts={"code": {}}),
    )  # fmt: skip
    record(submission(plan, NAME, "kuberay", storage, IMAGE, {}), NoConsole())
    store = open_artifacts(storage, "write")
    assert isinstance(store, S3Store)
    folder = store.cache.parent / "runs" / NAME
    shutil.copytree(sent, folder / "code")
    (folder / "plan.json").write_text(plan.model_copy(update={"code": str(folder / "code")}).model_dump_json())
    store.hosts().send(folder)
    ran = {"image": IMAGE, "user_code": modules_digest(sent)}
    for step in plan.steps:
        out = store.staging(step.name, step.key)
        (out / "model.safetensors").write_bytes(b"0123456789")
        store.commit(out, manifest(step.key, step.name, inputs=step.inputs, run=NAME, made_with=ran))
    return store


class NoConsole:
    """Nothing is to be said where the record can be written."""

    def print(self, text, **kwargs):
        raise AssertionError(text)


@pytest.fixture
def verify(storage, monkeypatch, capsys):
    """The command as `rayml` runs it, without starting a process: exit code, and what it printed where."""

    def run(*arguments, at=storage):
        monkeypatch.setattr("sys.argv", ["rayml", "verify", *arguments, "--storage", at])
        with pytest.raises(SystemExit) as end:
            main()
        return (end.value.code, *capsys.readouterr())

    return run


def path_of(store, kind, key):
    return f"{kind}/{key[:16]}/{store.look(kind, key).path.name}/model.safetensors"


def test_a_run_that_is_whole_passes_and_nothing_but_its_record_is_brought(storage, store, tmp_path):
    command = [sys.executable, "-m", "rayml.cli", "verify", NAME, "--storage", storage, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["artifacts"], document["faults"]) == (2, [])
    assert document["notes"] == [f"image: {IMAGE}"]
    assert [each["image"] for each in document["submitted"]] == [IMAGE]
    brought = {path.name for path in tmp_path.glob("rayml-*/*-read/**/*") if path.is_file()}
    assert "plan.json" in brought and "model.safetensors" not in brought, "large files are read where they are"


DAMAGES = {
    "other bytes": (b"9876543210", "has other bytes than were written (sha256 differs)"),
    "a part": (b"0123", "has 4 bytes, was 10"),
    "nothing": (None, "is missing"),
}


@pytest.mark.parametrize("seen", [False, True], ids=["first-look", "looked-before"])
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_object_is_named_with_what_to_do(storage, store, verify, how, seen):
    if seen:
        assert verify(NAME)[0] == 0
    content, said = DAMAGES[how]
    path = path_of(store, "train", TRAIN)
    store.bucket.delete(path) if content is None else store.bucket.put(path, content)
    for arguments in ((NAME,), ()):
        code, _, told = verify(*arguments)
        assert code == 3
        assert f"{storage}/artifacts/{path} {said}" in told
        assert "run the job again" in told and "Traceback" not in told
        folder = f"remove its folder first: {storage}/artifacts/train/{TRAIN[:16]}\n"
        assert (folder in told) == (how == "other bytes")


def test_an_input_that_was_damaged_and_a_manifest_that_is_gone_are_told(store, verify):
    store.bucket.put(path_of(store, "data", DATA), b"9876543210")
    store.bucket.delete(f"train/{TRAIN[:16]}/manifest.json")
    code, _, told = verify(NAME)
    assert code == 3
    assert f"data/{DATA[:16]}" in told and f"train/{TRAIN[:16]}: manifest.json is missing" in told


@pytest.mark.parametrize("seen", [False, True], ids=["first-look", "looked-before"])
@pytest.mark.parametrize("how", ["plan", "module", "file", "added", "removed"])
def test_what_was_changed_beside_the_artifacts_is_told(store, verify, how, seen):
    if seen:
        assert verify(NAME)[0] == 0
    kept, plan, code_folder = store.bucket.beside("runs"), f"{NAME}/plan.json", f"{NAME}/code"
    if how == "plan":
        kept.put(plan, kept.read(plan)[0].replace(b'"seed":7', b'"seed":8'))
    elif how == "removed":
        kept.delete(f"{code_folder}/wörter.txt")
    else:
        name = {"module": "netz.py", "file": "wörter.txt", "added": "mehr.txt"}[how]
        kept.put(f"{code_folder}/{name}", b"WIDTH = 9\n")
    code, _, told = verify(NAME)
    assert code == 3
    said = "plan.json is none of the plans that were submitted" if how == "plan" else "code holds other files than were"
    assert said in told and "submit the job again" in told


def test_a_run_that_was_removed_from_the_bucket_is_not_found_any_more(store, verify):
    assert verify(NAME)[0] == 0
    runs = store.bucket.beside("runs")
    for entry in runs.entries(f"{NAME}/"):
        runs.delete(entry.path)
    code, _, told = verify(NAME)
    assert code == 2 and f"no run {NAME!r} in s3://{BUCKET}/" in told


BROKEN = {
    "no such bucket": (5, "there is no such bucket", {}),
    "no credentials": (5, "no credentials", {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}),
    "wrong secret": (5, "does not fit the access key", {"AWS_SECRET_ACCESS_KEY": "hunter2"}),
    "unknown key": (5, "is not known", {"AWS_ACCESS_KEY_ID": "hunter2"}),
    "closed port": (5, "cannot be reached", {"AWS_ENDPOINT_URL": "http://user:hunter2@127.0.0.1:1"}),
    "no address": (2, "no store is opened by ftp://", {}),
    "no name of a bucket": (2, "is no name of a bucket", {}),
}
WRONG = {"no such bucket": "s3://no-such-bucket/rayml", "no address": "ftp://host/x", "no name of a bucket": "s3://A"}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_wrong_with_the_storage_is_one_sentence_and_no_traceback(storage, verify, monkeypatch, how):
    expected, said, environment = BROKEN[how]
    for name, value in environment.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    for arguments in ((NAME,), ()):
        code, out, told = verify(*arguments, at=WRONG.get(how, storage))
        assert (code, out) == (expected, "")
        assert said in told and "Traceback" not in told and "hunter2" not in told
        assert len(told.strip().splitlines()) == 2, "what is wrong, and what to do"


def test_a_prefix_without_the_run_is_named_and_not_the_folder_of_this_machine(storage, verify):
    code, out, told = verify(NAME)
    assert (code, out) == (2, "") and f"no run {NAME!r} in {storage}" in told
