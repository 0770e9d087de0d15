"""Each start of a schedule is a run of its own, planned for the data as it is then; a retry goes on with its run."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kuberay_jobs import cluster_of, plan_of

from rayml.backends.kuberay.job import argv, entrypoint
from rayml.backends.kuberay.request import render
from rayml.backends.ray.client import JobsClient
from rayml.backends.ray.follow import follow
from rayml.backends.ray.request import RUN_KEY, Request
from rayml.errors import PlanError
from rayml.plan.build import build_plan, cut_after
from rayml.plan.facts import gather_facts
from rayml.run import cluster_entry, on_cluster
from rayml.run.scheduled import known_starts, plan_start, planned_anew, run_of_start, which_start
from rayml.run.storage import open_storage
from rayml.spec.job import JobSpec

sys.path.append(str(Path(__file__).parents[2]))

from ray_cluster import ray_cluster
from s3 import client as s3_client
from s3 import seaweed

NOW = datetime(2026, 3, 7, 3, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cluster", "start"),
    [("digits-1-x7k9q-abcde", "x7k9q"), ("digits-1-x7k9q-raycluster-abcde", "x7k9q"), ("a-b2b2b-c3c3c-d4d4d", "c3c3c")],
)
def test_the_cluster_tells_the_start(cluster, start):
    assert which_start(cluster) == start


@pytest.mark.parametrize("cluster", ["", "digits", "digits-x7k9q", "digits-x7k9q-abcde-head", "$(X)"])
def test_another_cluster_is_refused(cluster):
    with pytest.raises(PlanError, match="no cluster that KubeRay made for a start"):
        which_start(cluster)


def before(days, start="x7k9q", run="d"):
    return f"{run}-{NOW - timedelta(days=days):%Y%m%d-%H%M%S}-{start}"


@pytest.mark.parametrize(
    ("known", "run"),
    [
        ({}, "d-20260307-030000-x7k9q"),
        ({before(0.1): False}, before(0.1)),
        ({before(6): False, before(1): False}, before(1)),
        ({before(0.1): True}, "d-20260307-030000-x7k9q"),
        ({before(8): False}, "d-20260307-030000-x7k9q"),
        ({before(1, run="d-2"): False, before(1, start="zzzzz"): False, "d-x7k9q": False}, "d-20260307-030000-x7k9q"),
    ],
    ids=["first", "retry", "the newest", "done", "too old", "of others"],
)
def test_which_run_a_start_is(known, run):
    assert run_of_start("d", "x7k9q", NOW, known) == run


def test_a_schedule_says_to_each_start_which_it_is():
    def head_of(document):
        spec = document["spec"].get("jobTemplate", document["spec"])
        (container,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
        return spec["entrypoint"], {each["name"]: each for each in container["env"]}

    plan, scheduled = plan_of("digits", "cpu-sweep"), {"schedule": {"cron": "0 3 * * *"}}
    command, variables = head_of(render(plan, cluster_of(scheduled)("cpu-sweep"), "d").documents[-1])
    assert command.endswith(" --run d --scheduled")
    assert variables["RAYML_CLUSTER"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.labels['ray.io/cluster']"}}
    command, variables = head_of(render(plan, cluster_of({})("cpu-sweep"), "d").documents[-1])
    assert "--scheduled" not in command and "RAYML_CLUSTER" not in variables


SOURCES = {
    "csv": {"kind": "csv", "path": "rows.csv"},
    "callable": {"kind": "callable", "function": "rows:read"},
    "sklearn": {"kind": "sklearn", "name": "digits"},
}


def sent_plan(base: Path, source: str):
    """A plan as `rayml submit` makes it, without its endpoint."""
    base.mkdir(exist_ok=True)
    (base / "rows.csv").write_text("a,label\n1,x\n")
    (base / "code").mkdir(exist_ok=True)
    (base / "code" / "rows.py").write_text("def read(): ...\n")
    document = {
        "name": "d",
        "data": {"source": SOURCES[source]},
        "task": {"kind": "image_classification" if source == "sklearn" else "tabular_classification"},
        "model": {"kind": "small_cnn" if source == "sklearn" else "mlp"},
        "train": {"epochs": 1},
        "export": {"formats": ["onnx"]},
        "serve": {},
        **({"code": "code"} if source == "callable" else {}),
    }
    if source != "sklearn":
        document["data"]["label"] = "label"
    job, cluster = JobSpec.model_validate(document), cluster_of({})("cpu-sweep")
    plan = build_plan(job, cluster, gather_facts(job, cluster, base), "jobs/d.yaml", base)
    return plan.model_copy(update={"steps": plan.steps[:-1]})


def keys(plan):
    return {step.name: step.key for step in plan.steps}


@pytest.mark.parametrize("source", SOURCES)
def test_what_a_start_makes_anew(tmp_path, source):
    sent = sent_plan(tmp_path / "job", source)
    same = keys(planned_anew(sent, "one"))
    assert (same == keys(sent)) is (source != "callable"), "what a function gives is not known before it is called"
    assert same == keys(planned_anew(sent, "one")), "a retry of the start"
    (tmp_path / "job" / "rows.csv").write_text("a,label\n1,x\n2,y\n")
    later = keys(planned_anew(sent, "two"))
    changed = {name for name in same if same[name] != later[name]}
    assert changed == (set() if source == "sklearn" else set(same))
    assert list(later) == ["data", "train", "export"], "the endpoint stays out"


def test_data_that_the_head_does_not_see_is_said(tmp_path):
    sent = sent_plan(tmp_path / "job", "csv")
    (tmp_path / "job" / "rows.csv").unlink()
    with pytest.raises(PlanError, match=r"rows\.csv") as error:
        planned_anew(sent, "one")
    assert "on the head" in error.value.hint


def test_a_plan_of_another_version_is_left_to_who_walks_it(tmp_path):
    sent = sent_plan(tmp_path / "job", "csv").model_copy(update={"rayml": "9.9", "origin": None})
    assert planned_anew(sent, "one") is sent


@pytest.fixture
def walked(monkeypatch, tmp_path):
    """Runs that were walked, with what they were started with; each one ends as `codes` says."""
    seen, codes = [], []

    def walk(plan_file, storage, run):
        plan = on_cluster.read_plan(Path(plan_file))
        folder = on_cluster.create_or_resume(open_storage(storage).home, run, plan)
        on_cluster.bring_code(folder, Path(plan_file).absolute().parent)
        seen.append((run, folder.plan()))
        code = codes.pop(0)
        event = {"t": 1.0, "kind": "run_done", "status": "done" if code == 0 else "failed", "exit_code": code}
        with folder.events_path.open("a") as stream:
            stream.write(json.dumps({**event, "error": None, "seconds": 1.0}) + "\n")
        return code

    monkeypatch.setattr("rayml.run.on_cluster.run_on_cluster", walk)
    monkeypatch.setattr(cluster_entry, "sys", sys)
    return seen, codes


def test_a_retry_goes_on_and_the_next_start_is_fresh(tmp_path, walked, monkeypatch, capsys):
    seen, codes = walked
    codes += [4, 0, 0]
    sent = tmp_path / "sent"
    plan = sent_plan(tmp_path / "job", "callable")
    (sent / "code").mkdir(parents=True)
    (sent / "code" / "rows.py").write_text("def read(): ...\n")
    (sent / "plan.json").write_text(plan.model_copy(update={"code": "code"}).model_dump_json())
    storage = str(tmp_path / "storage")
    found = []
    for cluster in ("d-aaaaa-11111", "d-aaaaa-22222", "d-bbbbb-33333"):
        monkeypatch.setenv("RAYML_CLUSTER", cluster)
        found.append(cluster_entry.main([str(sent / "plan.json"), "--storage", storage, "--run", "d", "--scheduled"]))
    assert sorted(path.name for path in sent.rglob("*")) == ["code", "plan.json", "rows.py"], "it may be a mount"
    assert found == [4, 0, 0]
    first, retried, fresh = seen
    assert first[0] == retried[0] != fresh[0]
    assert re.fullmatch(r"d-\d{8}-\d{6}-aaaaa", first[0]) and fresh[0].endswith("-bbbbb")
    assert keys(first[1]) == keys(retried[1]) != keys(fresh[1])
    assert all((Path(each.code) / "rows.py").exists() for _, each in seen), "the code came along"
    assert f"is the run {first[0]}" in capsys.readouterr().out
    assert known_starts(storage, "d", "aaaaa") == {first[0]: True}


def test_starts_are_known_in_a_bucket(tmp_path, monkeypatch):
    with seaweed(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bucket = s3_client(server)
        bucket.create_bucket(Bucket="starts")
        end = {"t": 1.0, "kind": "run_done", "status": "done", "exit_code": 0, "error": None, "seconds": 1.0}
        for run, events in (("d-20260307-030000-aaaaa", [end]), ("d-20260308-030000-aaaaa", []), ("d-2-bbbbb", [end])):
            content = "".join(json.dumps(event) + "\n" for event in events).encode()
            bucket.put_object(Bucket="starts", Key=f"team/runs/{run}/events.jsonl", Body=content)
        found = known_starts("s3://starts/team", "d", "aaaaa")
        assert found == {"d-20260307-030000-aaaaa": True, "d-20260308-030000-aaaaa": False}
        assert known_starts("s3://starts/nowhere", "d", "aaaaa") == {}


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_starts_on_a_ray_cluster(tmp_path):
    """A start, the next with the same file, and one with another: made, found, made."""
    plan = sent_plan(tmp_path / "job", "csv")
    table = tmp_path / "job" / "rows.csv"
    table.write_text("a,label\n" + "".join(f"{row},{'xy'[row % 2]}\n" for row in range(60)))
    path, storage = tmp_path / "plan.json", tmp_path / "storage"
    path.write_text(cut_after(plan, "data").model_dump_json())
    told = []
    with ray_cluster(nodes=1, cpus=1) as cluster:
        client = JobsClient(cluster.address, cluster.token)
        for name in ("d-aaaaa-11111", "d-bbbbb-22222", "d-ccccc-33333"):
            command = entrypoint(argv(str(storage), "d", str(path), scheduled=True))
            variables = {"env_vars": {"RAYML_CLUSTER": name}}
            job = client.submit(Request(entrypoint=command, runtime_env=variables, metadata={RUN_KEY: name}))
            lines = []
            assert follow(client, job, lines.append)["status"] == "SUCCEEDED", lines
            told.append("".join(lines))
            if name == "d-bbbbb-22222":
                table.write_text(table.read_text() + "60,x\n")
    assert [("cached" in text) for text in told] == [False, True, False]
    assert len(list((storage / "runs").iterdir())) == 3
    assert len(list((storage / "artifacts" / "data").iterdir())) == 2


def test_without_a_cluster_of_kuberay_it_ends_with_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RAYML_CLUSTER", raising=False)
    (tmp_path / "plan.json").write_text(sent_plan(tmp_path / "job", "sklearn").model_dump_json())
    code = cluster_entry.main([str(tmp_path / "plan.json"), "--storage", str(tmp_path), "--run", "d", "--scheduled"])
    assert code == 2 and "submit the job again" in capsys.readouterr().out


def test_a_plan_that_is_gone_is_said(tmp_path):
    with pytest.raises(PlanError, match="cannot be read"):
        plan_start(str(tmp_path / "plan.json"), str(tmp_path), "d")
