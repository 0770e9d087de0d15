"""The export stage: parity measured on frozen rows, the worst one named, and the file says what it is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from contract.store import manifest
from stages.train.ranks import make_shards

from rayml.artifacts.manifest import Artifact
from rayml.errors import StageError
from rayml.ml.checkpoint import save_weights
from rayml.ml.models import build_model
from rayml.ml.onnx_export import trace
from rayml.ml.shards import load_schema
from rayml.ml.trained import compare, frozen_sample
from rayml.plan.plan import ClusterPlan, Plan, Resources, Step
from rayml.stages.api import Context
from rayml.stages.export import stage
from rayml.stages.export.formats import torchscript

MODEL = {"kind": "small_cnn", "width": 8, "dropout": 0.3}
CONFIG = {"name": "ziffern", "formats": ["onnx"], "opset": 20, "parity": {"samples": 64}, "seed": 7}


@pytest.fixture
def world(tmp_path):
    data = make_shards(tmp_path / "data")
    train = tmp_path / "train"
    train.mkdir()
    (train / "model.json").write_text(json.dumps({"model": MODEL, "task": "image_classification"}))
    torch.manual_seed(3)
    save_weights(train, build_model(MODEL, load_schema(data), None).state_dict())
    out = tmp_path / "out"
    out.mkdir()
    inputs = {
        "data": Artifact(manifest("d" * 64, "data", config={"fingerprint": "f"}), data),
        "train": Artifact(manifest("t" * 64, "train"), train),
    }
    step = Step(
        name="export",
        config=CONFIG,
        inputs={"data": "d" * 64, "train": "t" * 64},
        code="c",
        key="e" * 64,
        resources=Resources(),
    )
    plan = Plan(
        rayml="0",
        job="ziffern",
        seed=7,
        job_file="jobs/ziffern.yaml",
        base=str(tmp_path),
        code=None,
        cluster=ClusterPlan(cpus=1, gpus=0, object_store=1),
        steps=(step,),
    )
    context = Context(
        plan=plan, run="ziffern-1", run_folder=tmp_path, out=out, work=tmp_path, emit=lambda *_, **__: None
    )
    return step, inputs, context


def test_one_file_with_everything_in_it(world):
    step, inputs, context = world
    outcome = stage.run(step, inputs, context)
    assert outcome.metrics["parity_max_abs_diff"] < 1e-5
    assert outcome.metrics["parity_label_mismatches"] == 0
    assert {path.name for path in context.out.iterdir()} == {"model.onnx", "parity.npz"}
    model = onnx.load(context.out / "model.onnx")
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["label", "probabilities"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param, "the batch is dynamic"
    assert [entry.version for entry in model.opset_import if not entry.domain] == [20]
    document = json.loads({entry.key: entry.value for entry in model.metadata_props}["rayml"])
    assert document["model"] == "ziffern"
    assert document["run"] == "ziffern-1"
    assert document["version"] == "e" * 12
    assert document["data"] == {"key": "d" * 64, "source": "f"}
    assert document["schema"]["classes"] == ["a", "b", "c"]


def test_every_format_is_a_file_that_was_held_against_the_model(world):
    step, inputs, context = world
    names = ["onnx", "torch_export", "safetensors", "torchscript"]
    outcome = stage.run(step.model_copy(update={"config": {**CONFIG, "formats": names}}), inputs, context)
    assert [each["format"] for each in outcome.facts["formats"]] == names
    for each in outcome.facts["formats"]:
        assert each["bytes"] == (context.out / each["file"]).stat().st_size
        assert each["max_abs_diff"] < 1e-5
        assert each["label_mismatches"] == 0
    assert outcome.metrics["size_bytes"] == (context.out / "model.onnx").stat().st_size
    assert outcome.metrics["latency_p50_ms"] > 0


def test_a_file_that_answers_otherwise_is_named_with_its_row(world, monkeypatch):
    step, inputs, context = world
    honest = torchscript.FORMAT.answers

    def wrong(*arguments):
        labels, probabilities = honest(*arguments)
        return labels, probabilities * 0.9

    monkeypatch.setattr(torchscript, "FORMAT", replace(torchscript.FORMAT, answers=wrong))
    config = {**CONFIG, "formats": ["onnx", "torchscript"]}
    outcome = stage.run(step.model_copy(update={"config": config}), inputs, context)
    assert outcome.metrics["parity_max_abs_diff"] > 0.03
    assert outcome.facts["worst"]["format"] == "torchscript"
    assert outcome.facts["formats"][0]["max_abs_diff"] < 1e-5


def test_without_onnx_nothing_is_measured_in_onnx_runtime(world):
    step, inputs, context = world
    config = {**CONFIG, "formats": ["safetensors"]}
    outcome = stage.run(step.model_copy(update={"config": config}), inputs, context)
    assert {path.name for path in context.out.iterdir()} == {"model.safetensors", "parity.npz"}
    assert set(outcome.metrics) == {"parity_max_abs_diff", "parity_label_mismatches", "size_bytes"}


def test_the_frozen_rows_are_of_the_test_split_and_always_the_same(world):
    step, inputs, context = world
    stage.run(step, inputs, context)
    first = dict(np.load(context.out / "parity.npz"))
    assert len(first["sample_ids"]) == 10, "as many as the split has, where the job asks for more"
    again = frozen_sample(inputs["data"].path, 64)
    np.testing.assert_array_equal(first["sample_ids"], again[0])
    np.testing.assert_array_equal(first["inputs"], again[1])
    assert len(frozen_sample(inputs["data"].path, 4)[0]) == 4


def test_the_worst_sample_and_its_difference_are_named():
    ids = np.array([11, 22, 33])
    trained = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], np.float32)
    exported = np.array([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9]], np.float32)
    metrics, worst = compare(ids, trained, exported, ["a", "b", "b"], ("a", "b"))
    assert metrics["parity_max_abs_diff"] == pytest.approx(0.2)
    assert metrics["parity_label_mismatches"] == 1
    assert worst["sample_id"] == 22
    assert worst["difference"] == pytest.approx(0.2)
    assert (worst["expected_label"], worst["got_label"]) == ("a", "b")


def test_the_worst_sample_is_one_row_with_its_own_numbers():
    trained = np.array([[0.9, 0.1], [0.49, 0.51], [0.45, 0.55]], np.float32)
    exported = np.array([[0.6, 0.4], [0.51, 0.49], [0.55, 0.45]], np.float32)
    ids, labels = np.array([11, 22, 33]), ["a", "a", "a"]
    metrics, worst = compare(ids, trained, exported, labels, ("a", "b"))
    assert metrics == {"parity_max_abs_diff": pytest.approx(0.3), "parity_label_mismatches": 2.0}
    assert (worst["sample_id"], worst["expected_label"], worst["got_label"]) == (33, "b", "a")
    assert worst["difference"] == pytest.approx(0.1)
    assert abs(worst["expected"] - worst["got"]) == pytest.approx(worst["difference"])


def test_a_probability_that_is_not_a_number_is_not_parity():
    trained = np.array([[0.5, 0.5]], np.float32)
    metrics, _ = compare(np.array([1]), trained, np.array([[np.nan, 0.5]], np.float32), ["a"], ("a", "b"))
    assert metrics["parity_max_abs_diff"] == np.inf


def test_a_model_that_branches_on_the_data_is_said_and_not_exported(world, tmp_path):
    step, inputs, context = world
    (tmp_path / "branching.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.linear = torch.nn.Linear(30, classes)\n"
        "    def forward(self, x):\n"
        "        y = self.linear(x.flatten(1))\n"
        "        return y if y.sum().item() > 0 else -y\n"
        "def build(schema):\n"
        "    return Net(len(schema.classes))\n"
    )
    config = {"kind": "callable", "function": "branching:build", "args": {}}
    plan = context.plan.model_copy(update={"code": str(tmp_path)})
    train = inputs["train"].path
    (train / "model.json").write_text(json.dumps({"model": config, "task": "image_classification"}))
    save_weights(train, build_model(config, load_schema(inputs["data"].path), str(tmp_path)).state_dict())
    with pytest.raises(StageError, match=r"could not export.*data-dependent.*\(branching\.py line 8\)"):
        stage.run(step, inputs, Context(**{**vars(context), "plan": plan}))


def test_an_operator_that_onnx_lacks_is_named(world):
    schema = load_schema(world[1]["data"].path)

    class Eigen(torch.nn.Module):
        def forward(self, rows):
            return torch.linalg.eigh(rows)[0]

    with pytest.raises(StageError, match=r"No ONNX function found.*_linalg_eigh"):
        trace(Eigen(), np.ones((2, 3, 3), np.float32), schema, 20)
