"""Students that are derived, what their training is told, and the teacher's answers as an artifact."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from stages.train.ranks import make_shards

from rayml.errors import StageError
from rayml.ml.checkpoint import load_weights, save_weights
from rayml.ml.models import build_model
from rayml.ml.shards import ShardSet, load_schema
from rayml.ml.trained import LOGITS_FILE, MODEL_FILE, load_trained
from rayml.plan.plan import make_step
from rayml.spec.compress import Distill
from rayml.stages.compress import teacher
from rayml.stages.compress.api import Candidate, Work
from rayml.stages.compress.passes import distill
from rayml.stages.compress.student import student_of
from rayml.stages.train.distill import open_logits

CNN = {"kind": "small_cnn", "width": 16, "dropout": 0.1}
MLP = {"kind": "mlp", "hidden": [32, 16, 8], "dropout": 0.0}
TRANSFORMER = {"kind": "transformer", "width": 24, "depth": 4, "heads": 4, "patch": 3, "dropout": 0.0}
RESNET = {"kind": "torchvision", "name": "resnet50", "norm": "batch", "small_images": True, "resize": None}
OWN = {"kind": "callable", "function": "nets:build", "args": {}}


def derived(width=0.5, depth=1.0):
    return {"kind": "derived", "width": width, "depth": depth}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards", train=300, val=20)


@pytest.fixture(scope="module")
def schema(data):
    return load_schema(data)


def save_model(folder, model, schema, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_weights(folder, dict(build_model(model, schema, None).state_dict()))
    (folder / MODEL_FILE).write_text(json.dumps({"model": model, "task": "image_classification"}))
    return folder


@pytest.mark.parametrize(
    ("own", "section", "changes"),
    [
        (CNN, derived(), {"width": 8}),
        (CNN, derived(0.1), {"width": 4}),
        (MLP, derived(), {"hidden": [16, 8, 4]}),
        (MLP, derived(0.5, 0.3), {"hidden": [16]}),
        (TRANSFORMER, derived(), {"width": 12}),
        (TRANSFORMER, derived(0.3, 0.5), {"width": 8, "depth": 2}),
        (RESNET, derived(), {"name": "resnet18"}),
        (RESNET, derived(0.95), {"name": "resnet34"}),
        ({**RESNET, "name": "resnet34"}, derived(), {"name": "resnet18"}),
        ({**CNN, "surgery": [{"kind": "prune"}]}, derived(), {"width": 8}),
        (CNN, {"kind": "same"}, {}),
    ],
)
def test_a_student_is_the_jobs_network_made_smaller(own, section, changes, schema):
    found = student_of(section, own, schema)
    assert found == {**{key: value for key, value in own.items() if key != "surgery"}, **changes}
    build_model(found, schema, None)


@pytest.mark.parametrize(
    ("own", "section", "said"),
    [
        (CNN, derived(depth=0.5), "two convolutions"),
        ({**MLP, "hidden": []}, derived(), "without a hidden layer"),
        ({**RESNET, "name": "resnet18"}, derived(), "smallest of its family"),
        (OWN, derived(), "nets:build is a function"),
    ],
)
def test_where_nothing_can_be_derived_a_student_is_asked_for(own, section, said, schema):
    with pytest.raises(StageError, match=said):
        student_of(section, own, schema)


def work(tmp_path, data, schema, config, own=CNN):
    folder = save_model(tmp_path / "model", own, schema)
    asked = []

    def train(model, start, settings):
        asked.append((model, start, settings))
        return dict(build_model(model, schema, None).state_dict())

    made = Work(
        config=config,
        seed=0,
        schema=schema,
        data=data,
        code=None,
        original=Candidate(folder),
        parent=Candidate(folder),
        out=tmp_path,
        threads=1,
        train=train,
        note=lambda text: None,
    )
    return made, asked


def section(**fields):
    config = TypeAdapter(Distill).validate_python({"kind": "distill", **fields}).model_dump(mode="json")
    if config["finetune"]["epochs"] == "auto":
        config["finetune"]["epochs"] = 5
    return config


def test_the_student_is_trained_from_nothing_with_what_the_pass_says(tmp_path, data, schema):
    config = section(
        features={"layers": {"network.6": "network.6"}}, attention={}, finetune={"epochs": 3, "batch_size": 8}
    )
    made, asked = work(tmp_path, data, schema, config)
    result = distill.run(made)
    model, start, settings = asked[0]
    assert (model, start) == ({**CNN, "width": 8}, None)
    assert settings == {
        "epochs": 3,
        "batch_size": 8,
        "teachers": [],
        "distill": {
            "temperature": 4.0,
            "hard": 0.1,
            "features": {"layers": [["network.6", "network.6"]], "weight": 1.0},
            "attention": {"layers": "auto", "weight": 1.0},
        },
    }
    assert result.config == model
    build_model(result.config, schema, None).load_state_dict(dict(result.weights))
    counts = result.facts["parameters"]
    assert counts["before"] == sum(each.numel() for each in load_weights(made.original.folder).values())
    assert counts["after"] < counts["before"] / 2
    assert result.facts["matched"] == ["features", "attention"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"student": {"kind": "small_cnn", "width": 32}}, "more than the"),
        ({"finetune": {"epochs": 0}}, "answers at random"),
    ],
)
def test_a_student_that_makes_no_sense_is_refused(tmp_path, data, schema, fields, said):
    made, asked = work(tmp_path, data, schema, section(**fields))
    with pytest.raises(StageError, match=said):
        distill.run(made)
    assert not asked


def answers(tmp_path, data, folder, splits=("train",), keep_model=False, others=()):
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    policy = {"teachers": {path.name: str(path) for path in others}}
    config = {"splits": list(splits), "keep_model": keep_model, "seed": 0, "others": list(policy["teachers"])}
    inputs = {name: SimpleNamespace(path=path) for name, path in {"data": data, "model": folder}.items()}
    context = SimpleNamespace(out=out, work=out, plan=SimpleNamespace(code=None), emit=lambda kind, **fields: None)
    return out, teacher.run(make_step("teacher", config, {}, "", policy), inputs, context)


@pytest.mark.parametrize("splits", [("train",), ("train", "val")])
def test_the_answers_are_the_models_own_in_canonical_order(tmp_path, data, schema, splits):
    folder = save_model(tmp_path / "model", CNN, schema)
    out, outcome = answers(tmp_path, data, folder, splits, keep_model=True)
    rows = ShardSet.open(data, *splits)
    logits = open_logits(str(out), len(rows), 3)
    records, labels = rows.gather(np.arange(len(rows)))
    with torch.no_grad():
        expected = load_trained(out, schema, None)(torch.from_numpy(records)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    correct = float((expected.argmax(1) == labels).mean())
    assert outcome.metrics == {"rows": len(rows), "teacher/accuracy": pytest.approx(correct)}


def test_several_teachers_answer_with_the_mean_of_their_probabilities(tmp_path, data, schema):
    folders = [save_model(tmp_path / "a", CNN, schema), save_model(tmp_path / "b", MLP, schema)]
    out, outcome = answers(tmp_path, data, folders[0], others=folders[1:])
    records, _ = ShardSet.open(data, "train").gather(np.arange(300))
    with torch.no_grad():
        each = [torch.softmax(load_trained(f, schema, None)(torch.from_numpy(records)), 1) for f in folders]
    found = torch.softmax(torch.from_numpy(np.load(out / LOGITS_FILE)), 1)
    torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=1e-4, atol=1e-6)
    assert outcome.facts["teachers"] == 2
    assert sorted(path.name for path in out.iterdir()) == [LOGITS_FILE]


def test_a_teacher_of_other_classes_is_refused(tmp_path, data):
    other = load_schema(make_shards(tmp_path / "four", classes=4))
    folder = save_model(tmp_path / "model", CNN, other)
    with pytest.raises(StageError, match="a teacher does not fit the rows and 3 classes"):
        answers(tmp_path, data, folder)
