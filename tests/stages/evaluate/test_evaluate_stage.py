"""The evaluate stage on real shards and real ONNX files, both small."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score

from rayml.artifacts.manifest import Artifact, Manifest
from rayml.errors import StageError
from rayml.ml.schema import ImageFeature, Normalization, Schema, VectorFeature
from rayml.ml.shards import save_schema, shard_name, write_shard
from rayml.plan.plan import ClusterPlan, Plan, Resources, Step
from rayml.spec.evaluate import METRICS
from rayml.stages.api import Context
from rayml.stages.evaluate import predict
from rayml.stages.evaluate.samples import show
from rayml.stages.evaluate.stage import run

CLASSES = ("Äpfel", "Birnen", "Nüsse")
TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}


def image_schema(height=5, width=7, channels=1, classes=CLASSES):
    feature = ImageFeature(height=height, width=width, channels=channels)
    return Schema(
        feature=feature,
        label="Obst",
        classes=classes,
        normalization=Normalization(offset=(0.0,) * channels, scale=(1.0,) * channels),
    )


def vector_schema(columns=("Länge", "Breite", "Höhe"), classes=CLASSES):
    normalization = Normalization(offset=(0.0,) * len(columns), scale=(1.0,) * len(columns))
    return Schema(feature=VectorFeature(columns=columns), label="Obst", classes=classes, normalization=normalization)


def write_split(folder, schema, features, labels, split="test", shard_rows=20):
    """Shards of a split; sample ids start at 1000 and leave every second one out."""
    folder.mkdir(exist_ok=True)
    save_schema(folder, schema)
    ids = 1000 + 2 * np.arange(len(labels), dtype=np.int64)
    for number, start in enumerate(range(0, len(labels), shard_rows)):
        part = slice(start, start + shard_rows)
        write_shard(folder / shard_name(split, number), ids[part], features[part], labels[part])


def write_model(path, schema, weight, answers=None, input_name=None):
    """softmax(flat(x) @ weight) as an ONNX file with the signature of an export."""
    feature, classes = schema.feature, len(schema.classes)
    name = input_name or feature.name
    names = [text.encode() for text in (answers or schema.classes)]
    nodes = [
        helper.make_node("Cast", [name], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["x", "flat_shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["index"], axis=1, keepdims=0),
        helper.make_node("Gather", ["names", "index"], ["label"]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TYPES[feature.dtype], ["N", *feature.shape])],
        [
            helper.make_tensor_value_info("label", TensorProto.STRING, ["N"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes]),
        ],
        [
            numpy_helper.from_array(np.array([-1, weight.shape[0]], dtype=np.int64), "flat_shape"),
            numpy_helper.from_array(weight.astype(np.float32), "weight"),
            helper.make_tensor("names", TensorProto.STRING, [len(names)], names),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)


def artifact(kind, path):
    return Artifact(
        Manifest(
            kind=kind,
            key=kind * 8,
            files=(),
            config={},
            inputs={},
            code="c",
            metrics={},
            facts={},
            environment={},
            run="r",
            job="obst",
            created="2026-11-21T00:00:00Z",
            seconds=1.0,
        ),
        path,
    )


@pytest.fixture
def stage_call(tmp_path):
    """Runs the stage on tmp_path/data and tmp_path/export; returns its outcome and its folder."""

    def call(bootstrap=200, seed=3, split="test"):
        step = Step(
            name="evaluate",
            config={"split": split, "bootstrap": bootstrap, "seed": seed},
            inputs={"data": "d", "export": "e"},
            code="c",
            key="k",
            resources=Resources(),
        )
        plan = Plan(
            rayml="0.1.0",
            job="obst",
            seed=seed,
            job_file="obst.yaml",
            base=str(tmp_path),
            code=None,
            cluster=ClusterPlan(cpus=1, gpus=0, object_store=1),
            steps=(step,),
        )
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        context = Context(plan, "r", tmp_path, out, tmp_path, lambda kind, **fields: None)
        inputs = {name: artifact(name, tmp_path / name) for name in ("data", "export")}
        return run(step, inputs, context), out

    return call


@pytest.fixture
def images(tmp_path):
    """57 images of 5x7 pixels in three classes, and a random model: some answers are right, some are not."""
    generator = np.random.default_rng(0)
    schema = image_schema()
    features = generator.integers(0, 256, size=(57, 5, 7, 1), dtype=np.uint8)
    labels = generator.integers(0, 3, size=57)
    weight = generator.normal(size=(35, 3)) / 400
    write_split(tmp_path / "data", schema, features, labels)
    write_model(tmp_path / "export" / "model.onnx", schema, weight)
    logits = features.reshape(57, -1).astype(np.float32) @ weight.astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return features, labels, probabilities


def read(out):
    return json.loads((out / "evaluation.json").read_text(encoding="utf-8"))


def test_metrics_are_those_of_the_model_on_the_split(images, stage_call):
    _, labels, probabilities = images
    outcome, out = stage_call()
    document = read(out)
    assert outcome.metrics["accuracy"] == pytest.approx((probabilities.argmax(axis=1) == labels).mean())
    assert outcome.metrics["roc_auc"] == pytest.approx(
        roc_auc_score(labels, probabilities, multi_class="ovr"), abs=1e-6
    )
    assert set(outcome.metrics) == set(METRICS) == set(document["metrics"])
    assert document["confusion"] == confusion_matrix(labels, probabilities.argmax(axis=1)).tolist()
    assert document["classes"] == list(CLASSES)
    assert [row["class"] for row in document["per_class"]] == list(CLASSES)
    assert document["rows"] == 57 == sum(row["support"] for row in document["per_class"])
    for name, (low, high) in outcome.facts["intervals"].items():
        assert low <= outcome.metrics[name] <= high
        assert document["metrics"][name] == {"value": outcome.metrics[name], "low": low, "high": high}


def test_every_row_is_in_the_predictions_in_the_order_of_the_split(images, stage_call):
    _, labels, probabilities = images
    _, out = stage_call()
    table = pq.read_table(out / "predictions.parquet")
    assert table.column_names == ["sample_id", "label", "predicted", "probabilities"]
    assert table["sample_id"].to_pylist() == [1000 + 2 * row for row in range(57)]
    assert table["label"].to_pylist() == [CLASSES[label] for label in labels]
    assert table["predicted"].to_pylist() == [CLASSES[index] for index in probabilities.argmax(axis=1)]
    assert np.array(table["probabilities"].to_pylist()) == pytest.approx(probabilities, abs=1e-6)
    assert json.loads(table.schema.metadata[b"classes"]) == list(CLASSES)


def test_the_same_seed_gives_the_same_bytes(images, stage_call):
    _, out = stage_call(seed=5)
    first = (out / "evaluation.json").read_bytes(), (out / "predictions.parquet").read_bytes()
    _, out = stage_call(seed=5)
    assert ((out / "evaluation.json").read_bytes(), (out / "predictions.parquet").read_bytes()) == first


def test_batches_of_any_size_give_the_same_answers(images, stage_call, monkeypatch):
    _, out = stage_call()
    whole = read(out)
    monkeypatch.setattr(predict, "BATCH_BYTES", 8 * 35)
    _, out = stage_call()
    assert read(out)["confusion"] == whole["confusion"]


def test_samples_show_the_worst_wrong_answers_first_and_every_class_among_the_right(images, stage_call):
    features, labels, probabilities = images
    _, out = stage_call()
    samples = read(out)["samples"]
    wrong = [sample for sample in samples if sample["label"] != sample["predicted"]]
    right = [sample for sample in samples if sample["label"] == sample["predicted"]]
    assert samples == wrong + right
    assert len(wrong) == len(right) == 12
    rows = [(sample["sample_id"] - 1000) // 2 for sample in wrong]
    given = probabilities[rows, labels[rows]]
    assert (np.diff(given) >= -1e-6).all()
    missed = probabilities[np.arange(57), labels][probabilities.argmax(axis=1) != labels]
    assert given.max() <= np.sort(missed)[11] + 1e-6
    assert {sample["label"] for sample in right[:3]} == set(CLASSES)
    for sample in samples:
        assert sample["top"][0] == [sample["predicted"], sample["probability"]]
        picture = Image.open(io.BytesIO(base64.b64decode(sample["image"].partition(",")[2])))
        row = (sample["sample_id"] - 1000) // 2
        assert picture.size == (7 * 13, 5 * 13)
        assert (np.asarray(picture)[6::13, 6::13] == features[row, :, :, 0]).all()


def test_a_large_color_image_becomes_a_small_picture(tmp_path, stage_call):
    schema = image_schema(200, 120, 3)
    features = np.random.default_rng(1).integers(0, 256, size=(6, 200, 120, 3), dtype=np.uint8)
    write_split(tmp_path / "data", schema, features, np.arange(6) % 3)
    write_model(tmp_path / "export" / "model.onnx", schema, np.zeros((72000, 3)))
    _, out = stage_call()
    uri = read(out)["samples"][0]["image"]
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert (picture.size, picture.mode) == ((58, 96), "RGB")


def test_records_of_a_table_are_shown_by_column(tmp_path, stage_call):
    schema = vector_schema()
    features = np.array([[1.5, 2, 3], [0, 7, 0], [0, 0, 9]], dtype=np.float32)
    write_split(tmp_path / "data", schema, features, np.array([0, 1, 2]))
    write_model(tmp_path / "export" / "model.onnx", schema, np.eye(3))
    _, out = stage_call()
    records = {sample["sample_id"]: sample["record"] for sample in read(out)["samples"]}
    assert records[1000] == {"Länge": 1.5, "Breite": 2.0, "Höhe": 3.0}


def test_an_empty_field_is_null_in_the_record():
    shown = show(vector_schema(), np.array([1, np.nan, 3], dtype=np.float32))
    assert shown == {"record": {"Länge": 1.0, "Breite": None, "Höhe": 3.0}}


def test_a_model_that_is_always_right_shows_no_wrong_samples(tmp_path, stage_call):
    schema = vector_schema()
    labels = np.arange(30) % 3
    write_split(tmp_path / "data", schema, (50 * np.eye(3, dtype=np.float32))[labels], labels)
    write_model(tmp_path / "export" / "model.onnx", schema, np.eye(3))
    outcome, out = stage_call()
    assert outcome.metrics["accuracy"] == 1
    assert outcome.facts["intervals"]["accuracy"] == [1, 1]
    assert all(sample["label"] == sample["predicted"] for sample in read(out)["samples"])


def test_a_split_of_one_class_has_no_roc_auc_and_names_the_absent_ones(tmp_path, stage_call):
    schema = vector_schema()
    write_split(tmp_path / "data", schema, np.ones((4, 3), dtype=np.float32), np.ones(4, dtype=np.int64))
    write_model(tmp_path / "export" / "model.onnx", schema, np.eye(3))
    outcome, out = stage_call()
    assert "roc_auc" not in outcome.metrics
    assert outcome.facts["absent"] == ["Äpfel", "Nüsse"] == read(out)["absent"]


def nan_weight(schema, path):
    write_model(path, schema, np.full((3, 3), np.nan))


def foreign_classes(schema, path):
    write_model(path, schema, np.eye(3), answers=("Äpfel", "Birnen", "Kürbis"))


def foreign_input(schema, path):
    write_model(path, schema, np.eye(3), input_name="pixels")


def another_width(schema, path):
    write_model(path, vector_schema(columns=("a", "b")), np.ones((2, 3)))


def another_number_of_classes(schema, path):
    write_model(path, vector_schema(classes=("Äpfel", "Birnen")), np.ones((3, 2)))


def damaged(schema, path):
    path.parent.mkdir()
    path.write_bytes(b"not a model")


def missing(schema, path):
    path.parent.mkdir()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nan_weight, "are not probabilities; those of sample 1000"),
        (foreign_classes, "'Kürbis', which is not a class"),
        (foreign_input, "tensors are label, pixels, probabilities"),
        (another_width, r"does not run on \(4, 3\) float32"),
        (another_number_of_classes, r"probabilities \(4, 2\)"),
        (damaged, f"ONNX Runtime {onnxruntime.__version__} cannot load the model"),
        (missing, "there is no model file"),
    ],
)
def test_a_file_that_cannot_answer_is_said_plainly(tmp_path, stage_call, make, says):
    schema = vector_schema()
    write_split(tmp_path / "data", schema, np.diag([9.0, 9, 9, 9]).astype(np.float32)[:, 1:], np.array([0, 1, 2, 0]))
    path = tmp_path / "export" / "model.onnx"
    make(schema, path)
    with pytest.raises(StageError, match=says) as caught:
        stage_call()
    assert caught.value.where == str(path)
    assert caught.value.hint
