"""Files of this machine on their way to the storage of a cluster, on a real S3 server."""

from __future__ import annotations

import secrets
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from s3 import bucket_here

from rayml.artifacts.bring import bring_weights
from rayml.artifacts.bucket import bucket_at
from rayml.errors import BackendError, PlanError
from rayml.plan.plan import Plan
from rayml.plan.sources import list_files
from rayml.run.resolve import resolve
from rayml.run.sending import in_words, outline, send_files
from rayml.spec.cluster import RayCluster
from rayml.spec.load import load_job

BUCKET = "sent"
JOB = """\
name: rows
data: {source: {kind: KIND, path: PATH}}
task: {kind: tabular_classification}
model: {kind: mlp}
train: {start: {kind: folder, path: WEIGHTS}}
"""


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory):
    with bucket_here(tmp_path_factory.mktemp("seaweed"), BUCKET) as running:
        yield running


@pytest.fixture
def folder(tmp_path):
    """A job's folder with rows and weights."""
    (tmp_path / "rows" / "deep").mkdir(parents=True)
    (tmp_path / "rows" / "a.csv").write_text("x,label\n1,0\n")
    (tmp_path / "rows" / "deep" / "ü b.csv").write_text("x,label\n2,1\n")
    (tmp_path / "rows" / "notes.txt").write_text("not a row")
    (tmp_path / "weights" / "last").mkdir(parents=True)
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"0" * 100)
    (tmp_path / "weights" / "config.json").write_text("{}")
    (tmp_path / "weights" / "pytorch_model.bin").write_bytes(b"pickled")
    (tmp_path / "weights" / "last" / "optimizer.safetensors").write_bytes(b"large")
    return tmp_path


def planned(
    folder: Path, path: str = "rows", weights: str = "weights", storage: str | None = None, kind: str = "csv"
) -> Plan:
    job = folder / "job.yaml"
    job.write_text(JOB.replace("KIND", kind).replace("PATH", path).replace("WEIGHTS", weights))
    storage = storage or f"s3://{BUCKET}/{secrets.token_hex(4)}"
    return resolve(job, [], RayCluster(kind="ray", storage=storage, cpus=2), folder / "home")[0]


def sent(plan: Plan) -> str:
    console = Console(file=StringIO(), width=500)
    send_files(plan, console)
    return console.file.getvalue()


def objects(plan: Plan) -> list[str]:
    place = plan.step("data").policy["sent"]
    names = [entry.path for entry in bucket_at(place.rpartition("/")[0]).entries("")]
    return [name for name in names if "/" in name]  # beside them lies what says that they are whole


def test_rows_and_weights_travel_once_under_their_names(folder):
    plan = planned(folder)
    assert [(each["what"], each["files"]) for each in outline(plan)] == [
        ("data.source.path rows", 2),
        ("train.start", 2),
    ]
    said = sent(plan)
    assert "sending 2 files of data.source.path rows to s3://" in said
    assert len(in_words(plan)) == 2
    data, weights = plan.step("data").policy["sent"], plan.step("train").policy["start"]
    names = [f"{data.rpartition('/')[2]}/{name}" for name in ("a.csv", "deep/ü b.csv")]
    names += [f"{weights.rsplit('/sent/', 1)[1]}/{name}" for name in ("config.json", "model.safetensors")]
    assert sorted(objects(plan)) == sorted(names)
    assert sent(plan) == "", "they are there"

    source = load_job(folder / "job.yaml", ()).data.source
    there, here = list_files(source, Path("/nowhere"), data), list_files(source, folder)
    assert [file.name for file in there.files] == [file.name for file in here.files]
    assert there.show("a.csv") == here.show("a.csv") == "rows/a.csv"
    brought = bring_weights(weights, folder / "node")
    assert sorted(path.name for path in brought.iterdir()) == ["config.json", "model.safetensors"]
    assert brought == bring_weights(weights, folder / "node"), "a second rank finds them"
    assert list((folder / "node").iterdir()) == [brought]


def test_where_a_run_finds_its_files_is_no_part_of_what_it_is(folder):
    first, second = planned(folder), planned(folder)
    assert first.step("data").policy != second.step("data").policy
    assert [step.key for step in first.steps] == [step.key for step in second.steps]
    here = resolve(folder / "job.yaml", [], None, folder / "home")[0]
    assert here.step("data").key == first.step("data").key
    assert "sent" not in here.step("data").policy


def test_a_broken_transfer_goes_on(folder):
    plan = planned(folder)
    sent(plan)
    bucket_at(plan.step("data").policy["sent"]).put("a.csv", b"half")
    assert "sending 1 file of data.source.path rows" in sent(plan)


@pytest.mark.parametrize(("path", "weights"), [("rows/a.csv", "weights/model.safetensors"), ("rows/*.csv", "weights")])
def test_single_files_and_globs(folder, path, weights):
    plan = planned(folder, path, weights)
    sent(plan)
    data, start = plan.step("data").policy["sent"], plan.step("train").policy["start"]
    listing = list_files(load_job(folder / "job.yaml", ()).data.source, Path("/nowhere"), data)
    assert [listing.show(file.name) for file in listing.files] == ["rows/a.csv"]
    assert bring_weights(start, folder / "node").name == Path(weights).name


def test_what_every_node_sees_does_not_travel(folder):
    plan = planned(folder, str(folder / "rows"), str(folder / "weights"))
    assert "sent" not in plan.step("data").policy
    assert plan.step("train").policy["start"] == str(folder / "weights")
    assert outline(plan) == []
    shared = planned(folder, storage=str(folder / "shared"))
    assert outline(shared) == []


def test_files_that_change_or_vanish_meanwhile_are_told(folder, monkeypatch):
    from rayml.artifacts import bucket

    plan = planned(folder)
    upload = bucket.Bucket.upload

    def and_change(self, source, path, told):
        upload(self, source, path, told)
        (folder / "rows" / "a.csv").write_text("x,label\n1,0\n3,1\n")

    monkeypatch.setattr(bucket.Bucket, "upload", and_change)
    with pytest.raises(PlanError, match="was changed while it was sent"):
        sent(plan)
    assert not [name for name in objects(plan) if name.endswith("/a.csv")], "nobody takes it for what was planned"
    monkeypatch.undo()
    with pytest.raises(PlanError, match="changed since the plan was made"):
        sent(plan)
    (folder / "rows" / "a.csv").unlink()
    (folder / "rows" / "deep" / "ü b.csv").unlink()
    with pytest.raises(PlanError, match="holds no file"):
        sent(plan)


def test_files_that_changed_since_the_plan_are_not_sent_in_its_name(folder):
    plan = planned(folder)
    (folder / "rows" / "a.csv").write_text("x,label\n9,0\n")
    with pytest.raises(PlanError, match=r"rows: the files changed since the plan was made\n.*submit the job again"):
        sent(plan)
    assert objects(plan) == []
    plan = planned(folder, storage=f"s3://{BUCKET}/{secrets.token_hex(4)}")
    (folder / "weights" / "model.safetensors").write_bytes(b"1" * 100)
    with pytest.raises(PlanError, match=r"train\.start: the files changed since the plan was made"):
        sent(plan)
    assert not [name for name in objects(plan) if name.startswith("weights-")]


def test_files_of_which_some_are_gone_are_not_read_as_if_they_were_all(folder):
    plan = planned(folder)
    sent(plan)
    place = plan.step("data").policy["sent"]
    source = load_job(folder / "job.yaml", ()).data.source
    bucket_at(place).delete("a.csv")
    with pytest.raises(PlanError, match=r"does not hold all of them\n.*submit the job again"):
        list_files(source, folder, place)
    sent(plan)
    assert len(list_files(source, folder, place).files) == 2


@pytest.mark.parametrize("path", [".", "./"])
def test_rows_right_beside_the_job(folder, path):
    (folder / "b.csv").write_text("x,label\n1,0\n")
    plan = planned(folder, path)
    sent(plan)
    source = load_job(folder / "job.yaml", ()).data.source
    there, here = list_files(source, Path("/nowhere"), plan.step("data").policy["sent"]), list_files(source, folder)
    assert [there.show(file.name) for file in there.files] == [here.show(file.name) for file in here.files]


@pytest.mark.parametrize("name", ["line\nbreak.csv", "back\\slash.csv"])
def test_a_name_that_no_object_can_have(folder, name):
    (folder / "rows" / name).write_text("x,label\n1,0\n")
    plan = planned(folder)
    with pytest.raises(PlanError, match="cannot travel"):
        sent(plan)
    assert objects(plan) == []


def test_what_was_sent_and_is_gone(folder):
    plan = planned(folder)
    source = load_job(folder / "job.yaml", ()).data.source
    with pytest.raises(PlanError, match=r"where rayml submit had sent the files, is empty\n.*submit the job again"):
        list_files(source, folder, plan.step("data").policy["sent"])
    with pytest.raises(BackendError, match="there are no weights"):
        bring_weights(plan.step("train").policy["start"], folder / "node")
    assert not list((folder / "node").iterdir())


def test_what_is_still_on_its_way_ends_when_another_file_fails(folder, monkeypatch):
    from rayml.artifacts import bucket

    plan, ended = planned(folder), []

    def upload(self, source, path, told):
        if path == "a.csv":
            time.sleep(0.2)
            raise PermissionError(13, "Permission denied")
        for _ in range(600):  # a minute of a large file
            try:
                told(1)
            except Exception as error:
                ended.append(type(error).__name__)
                raise
            time.sleep(0.1)

    monkeypatch.setattr(bucket.Bucket, "upload", upload)
    with pytest.raises(PlanError, match=r"a\.csv cannot be read: Permission denied"):
        sent(plan)
    assert ended == ["Stopped"]
