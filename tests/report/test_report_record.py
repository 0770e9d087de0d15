"""The JSON record: the same parts for every fate of a run, and only what the run knows."""

from __future__ import annotations

import json

import pytest

from rayml.artifacts.manifest import digest
from rayml.errors import RaymlError
from rayml.report.page import write_report
from rayml.report.record import RECORD_VERSION, collect

PARTS = {
    "schema_version": int,
    "run": dict,
    "cluster": dict,
    "steps": list,
    "promises": list,
    "gates": list,
    "sweep": (dict, type(None)),
    "compress": (dict, type(None)),
    "training": (dict, type(None)),
    "speed": (dict, type(None)),
    "evaluation": (dict, type(None)),
    "data": (dict, type(None)),
    "notes": list,
    "environment": dict,
    "submitted": list,
}
RUN = {
    "id": str,
    "job": str,
    "job_file": str,
    "seed": int,
    "rayml": str,
    "host": (str, type(None)),
    "started": (float, type(None)),
    "ended": (float, type(None)),
    "seconds": (float, type(None)),
    "exit_code": (int, type(None)),
    "status": str,
    "reason": str,
    "hint": str,
}


def check(document, fields):
    assert set(document) == set(fields)
    for name, kinds in fields.items():
        assert isinstance(document[name], kinds), name


@pytest.mark.parametrize(
    ("made", "status", "exit_code", "steps"),
    [
        ({}, "passed", 0, ["done"] * 5),
        ({"fate": "failed", "stop_in": "data"}, "failed", 4, ["failed"] + ["not reached"] * 4),
        ({"fate": "gate", "stop_in": "evaluate"}, "failed", 3, ["done"] * 4 + ["not reached"]),
        ({"fate": "interrupted", "stop_in": "serve"}, "incomplete", 130, ["done"] * 4 + ["interrupted"]),
        ({"fate": "killed", "stop_in": "train"}, "incomplete", None, ["done", "interrupted"] + ["not reached"] * 3),
    ],
)
def test_every_fate_gives_the_same_parts(runs, made, status, exit_code, steps):
    folder = runs.make(**made)
    page = write_report(folder, runs.store)
    record = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert page == folder / "report.html"
    check(record, PARTS)
    check(record["run"], RUN)
    assert record["schema_version"] == RECORD_VERSION
    assert (record["run"]["status"], record["run"]["exit_code"]) == (status, exit_code)
    assert [step["status"] for step in record["steps"]] == steps
    assert record == collect(folder, runs.store)


def test_files_and_lineage_are_those_of_the_manifests(runs):
    record = collect(runs.make(), runs.store)
    for step in record["steps"]:
        artifact = runs.store.find(step["name"], step["key"])
        assert step["artifact"]["files"] == [entry.model_dump() for entry in artifact.manifest.files]
        assert step["inputs"] == artifact.manifest.inputs
        assert runs.store.verify(artifact) == []


def test_hops_name_difference_and_tolerance(runs):
    export, evaluate, serve = collect(runs.make(), runs.store)["promises"]
    assert (export["difference"], export["tolerance"], export["samples"], export["passed"]) == (1.19e-7, 1e-4, 64, True)
    assert (serve["difference"], serve["passed"]) == (1.8e-7, True)
    assert evaluate["kind"] == "same file" and evaluate["passed"] is True
    assert len(evaluate["sha256"]) == 64


def test_a_hop_whose_gate_is_not_met_did_not_pass(runs):
    export, evaluate, serve = collect(runs.make(fate="gate", stop_in="export"), runs.store)["promises"]
    assert export["passed"] is False and export["difference"] == 1.19e-7
    assert evaluate["passed"] is None and serve["passed"] is None


def test_an_evaluation_of_another_file_is_not_the_same_file(runs):
    folder = runs.make()
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    export = plan["steps"][2]
    artifact = runs.store.find("export", export["key"])
    export["key"] = digest("another export")
    out = runs.store.staging("export", export["key"])
    (out / "model.onnx").write_text("another")
    runs.store.commit(out, artifact.manifest.model_copy(update={"key": export["key"]}))
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    assert collect(folder, runs.store)["promises"][1]["passed"] is False


def test_artifacts_of_steps_that_this_run_did_not_reach_are_not_shown(runs):
    runs.make(run="first")
    record = collect(runs.make(run="second", fate="interrupted", stop_in="train"), runs.store)
    assert record["evaluation"] is None
    assert [step["artifact"] is None for step in record["steps"]] == [False, True, True, True, True]


def test_a_torn_last_line_and_a_missing_log_are_borne(runs):
    folder = runs.make(fate="killed", stop_in="export")
    with (folder / "events.jsonl").open("a") as stream:
        stream.write('{"t": 1795303599.1, "kind": "step_do')
    assert collect(folder, runs.store)["run"]["status"] == "incomplete"
    (folder / "events.jsonl").unlink()
    record = collect(folder, runs.store)
    assert (record["run"]["started"], record["run"]["seconds"]) == (None, None)
    write_report(folder, runs.store)


def test_a_loss_that_is_not_a_number_becomes_null(runs):
    folder = runs.make(fate="killed", stop_in="train")
    line = {"t": 1795303590.0, "kind": "epoch", "step": "train", "epoch": 7, "train/loss": float("nan")}
    with (folder / "events.jsonl").open("a") as stream:
        stream.write(json.dumps({**line, "val/loss": float("inf"), "val/accuracy": float("nan")}) + "\n")
    write_report(folder, runs.store)
    text = (folder / "report.json").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record["training"]["history"][-1]["val/loss"] is None
    assert record["training"]["best"]["epoch"] == 6


def test_the_best_epoch_is_the_first_with_the_best_value(runs):
    assert collect(runs.make(), runs.store)["training"]["best"] == {
        "epoch": 14,
        "metric": "val/accuracy",
        "goal": "max",
        "value": 0.9845,
    }


def test_a_folder_without_a_plan_is_no_run(tmp_path, runs):
    with pytest.raises(RaymlError, match=r"no plan\.json") as caught:
        collect(tmp_path, runs.store)
    assert caught.value.where == str(tmp_path)


def test_a_plan_that_cannot_be_read_is_said(runs):
    folder = runs.make()
    (folder / "plan.json").write_text('{"rayml": "0.1.0"}')
    with pytest.raises(RaymlError, match="plan cannot be read"):
        collect(folder, runs.store)
