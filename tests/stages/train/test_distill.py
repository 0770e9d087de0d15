"""Learning from a teacher: the loss that torch computes, the same for every world size, and an artifact without it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stages.train.ranks import FACTS, loop_settings, make_shards, run_ranks
from torch.nn import functional

from rayml.artifacts.hosts import ONE_FOLDER
from rayml.errors import StageError
from rayml.ml.checkpoint import newest_checkpoint, save_weights
from rayml.ml.losses import build_loss
from rayml.ml.models import build_model
from rayml.ml.order import EpochOrder
from rayml.ml.shards import ShardSet, load_schema
from rayml.ml.trained import LOGITS_FILE, MODEL_FILE, load_trained
from rayml.plan.plan import ClusterPlan, make_step
from rayml.plan.training import resolve_train
from rayml.spec.job import JobSpec
from rayml.stages.train.distill import Distillation, open_logits
from rayml.stages.train.loop import read
from rayml.stages.train.matching import add_matching, attention_distance, feature_distance, last_layer
from rayml.stages.train.merging import without_helpers
from rayml.stages.train.setup import assemble
from rayml.stages.train.stage import run
from rayml.stages.train.state import LoopConfig, LoopState
from rayml.stages.train.strategies.base import Seat

TEACHER = {"kind": "small_cnn", "width": 16, "dropout": 0.0}
STUDENT = {"kind": "small_cnn", "width": 8, "dropout": 0.0}
CROSS_ENTROPY = {"kind": "cross_entropy", "label_smoothing": 0.0, "class_weights": "none"}
PLAIN = {"temperature": 4.0, "hard": 0.1, "features": None, "attention": None}
AUTO = {"layers": "auto", "weight": 0.5}
MATCHED = {**PLAIN, "features": AUTO, "attention": {"layers": [["network.2", "network.2"]], "weight": 2.0}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, data):
    return make_teacher(tmp_path_factory.mktemp("teacher"), data, "train")


def make_teacher(folder, data, *splits, model=TEACHER):
    """Answers with large differences, and the network that gave them."""
    schema = load_schema(data)
    torch.manual_seed(3)
    network = build_model(model, schema, None).eval()
    (folder / MODEL_FILE).write_text(json.dumps({"model": model, "task": "image_classification"}))
    save_weights(folder, dict(network.state_dict()))
    rows = ShardSet.open(data, *splits)
    features, _ = rows.gather(np.arange(len(rows)))
    with torch.no_grad():
        np.save(folder / LOGITS_FILE, 5 * network(torch.from_numpy(features)).numpy())
    return folder


def trained(tmp_path, name, data, teacher, world_size=2, **changes):
    changes = {"model": STUDENT, "distill": PLAIN, "teacher": str(teacher), "epochs": 2, **changes}
    settings = loop_settings(data, tmp_path / name, **changes)
    codes = run_ranks(settings, world_size)
    assert codes == [0] * world_size, (tmp_path / name / "errors.log").read_text()[-3000:]
    checkpoint, _ = newest_checkpoint(tmp_path / name / "checkpoints")
    return checkpoint


def history(checkpoint, name):
    return [record[name] for record in checkpoint.state["history"]]


@pytest.mark.parametrize("hard", [0.0, 0.3, 1.0])
def test_the_loss_is_what_torch_computes_from_probabilities(hard):
    torch.manual_seed(0)
    logits, soft, labels = torch.randn(6, 3), 3 * torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    base = build_loss(CROSS_ENTROPY, ("a", "b", "c"), None, None)
    found = Distillation(4.0, hard, 3)(base, logits, labels, soft)
    p, q = torch.softmax(soft / 4, 1), torch.softmax(logits / 4, 1)
    divergence = (p * (p.log() - q.log())).sum()
    expected = hard * functional.cross_entropy(logits, labels, reduction="sum") + (1 - hard) * 16 * divergence
    torch.testing.assert_close(found, expected)
    assert Distillation(4.0, 0.0, 3)(base, soft, labels, soft).abs() < 1e-5


def test_a_column_behind_the_logits_is_added_up():
    base = build_loss(CROSS_ENTROPY, ("a", "b"), None, None)
    logits, distances, labels = torch.zeros(3, 2), torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 1, 1])
    loss = Distillation(2.0, 0.5, 2)
    assert loss(base, torch.cat([logits, distances], 1), labels, None) == base(logits, labels) + 7


@pytest.mark.parametrize("rows", ["train", "train_and_val"])
def test_each_row_meets_its_own_answer(tmp_path, data, rows):
    splits = ("train", "val") if rows == "train_and_val" else ("train",)
    make_teacher(tmp_path, data, *splits)
    settings = loop_settings(data, tmp_path, distill=PLAIN, teacher=str(tmp_path), rows=rows, model=STUDENT)
    config = LoopConfig(**{key: value for key, value in settings.items() if key not in {"events", "errors"}})
    training = assemble(config, Seat(0, 1, torch.device("cpu")), lambda *_, **__: None)
    training.strategy.data_rank, training.strategy.data_size = 1, 2
    batches = read(training, LoopState(), EpochOrder(len(training.train_set), 7, 1), 16, 47)
    network = load_trained(tmp_path, load_schema(data), None)
    for batch in batches:
        torch.testing.assert_close(batch.soft, 5 * network(batch.features))


def test_the_losses_do_not_depend_on_the_world_size(tmp_path, data, teacher):
    runs = [trained(tmp_path, f"ranks-{size}", data, teacher, world_size=size) for size in (1, 2)]
    for name in ("train/loss", "val/loss"):
        np.testing.assert_allclose(*(history(run, name) for run in runs), rtol=1e-4)
    plain = trained(tmp_path, "plain", data, teacher, distill=None)
    assert abs(history(plain, "train/loss")[0] - history(runs[0], "train/loss")[0]) > 0.01


@pytest.mark.parametrize("distill", [PLAIN, MATCHED], ids=["answers", "layers"])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path, data, teacher, distill):
    whole = trained(tmp_path, "whole", data, teacher, distill=distill)
    settings = loop_settings(
        data, tmp_path / "cut", model=STUDENT, distill=distill, teacher=str(teacher), epochs=2, every_steps=2
    )
    assert run_ranks({**settings, "die_at": {"rank": 0, "call": 8}}, 2)[0] != 0
    assert run_ranks(settings, 2) == [0, 0]
    resumed, _ = newest_checkpoint(tmp_path / "cut" / "checkpoints")
    mine, theirs = whole.tensors("model"), resumed.tensors("model")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("strategy", ["local", "ddp", "fsdp"])
def test_layers_are_matched_by_each_strategy_and_leave_nothing_behind(tmp_path, data, teacher, strategy):
    kinds = {
        "local": {"kind": "local"},
        "ddp": {"kind": "ddp", "bucket_mb": 25, "static_graph": False, "compress": "none", "transport": "network"},
        "fsdp": {"kind": "fsdp", "replicate": 1, "shard": 2, "offload": False, "reshard": True, "reduce": "fp32"},
    }
    size = 1 if strategy == "local" else 2
    run = trained(tmp_path, strategy, data, teacher, size, distill=MATCHED, strategy=kinds[strategy])
    alone = trained(tmp_path, "alone", data, teacher, 1, distill=MATCHED)
    np.testing.assert_allclose(history(run, "train/loss"), history(alone, "train/loss"), rtol=1e-4)
    weights = run.tensors("model")
    projections = [name for name in weights if name.startswith("matching.")]
    assert projections == ["matching.projections.0.bias", "matching.projections.0.weight"]
    schema = load_schema(data)
    torch.manual_seed(7)
    student = build_model(STUDENT, schema, None)
    first = {**PLAIN, "features": AUTO}
    add_matching(student, load_trained(teacher, schema, None), first, "local", schema)
    assert not torch.equal(student.state_dict()[projections[1]], weights[projections[1]]), "it was not trained"
    build_model(STUDENT, schema, None).load_state_dict(without_helpers(weights))


QUANTIZE = {"per_channel": True, "activations": "uint8"}


@pytest.mark.parametrize(
    "changes", [{"distill": PLAIN}, {"distill": MATCHED, "quantize": QUANTIZE}], ids=["answers", "layers in int8"]
)
def test_the_artifact_holds_the_student_alone(tmp_path, data, teacher, changes):
    job = {
        "name": "student",
        "data": {"source": {"kind": "sklearn", "name": "digits"}},
        "task": {"kind": "image_classification"},
        "model": STUDENT,
        "train": {"strategy": {"kind": "local"}, "epochs": 2, "batch_size": 16},
    }
    config, policy, resources = resolve_train(
        JobSpec.model_validate(job), ClusterPlan(cpus=1, gpus=0, object_store=0), FACTS
    )
    inputs = {"data": SimpleNamespace(path=data), "teacher": SimpleNamespace(path=teacher)}
    step = make_step("finetune", {**config, **changes}, {"data": "0", "teacher": "1"}, "", policy, resources)
    notes = []
    context = SimpleNamespace(
        work=tmp_path / "work",
        out=tmp_path / "out",
        run_folder=tmp_path / "run",
        home=tmp_path,
        run="r",
        plan=SimpleNamespace(code=None, base=str(tmp_path)),
        hosts=ONE_FOLDER,
        emit=lambda kind, **fields: notes.append(fields.get("text")),
    )
    for folder in (context.work, context.out, context.run_folder):
        folder.mkdir()
    outcome = run(step, inputs, context)
    assert outcome.metrics["epochs"] == 2
    student = load_trained(context.out, load_schema(data), None)
    assert list(student.state_dict()) == list(build_model(STUDENT, load_schema(data), None).state_dict())
    assert not [note for note in notes if note and "no estimate" in note], notes
    if changes["distill"] is MATCHED:
        assert any(note and note.startswith("2 layers matched to the teacher: features of network.6") for note in notes)


def networks(data, teacher=TEACHER, student=STUDENT):
    schema = load_schema(data)
    return build_model(teacher, schema, None).eval(), build_model(student, schema, None), schema


def test_the_teachers_layers_are_read_where_the_job_compiles_too(tmp_path, data, teacher):
    compiled = trained(
        tmp_path, "compiled", data, teacher, distill=MATCHED, compile=True, activation_checkpointing=True
    )
    assert history(compiled, "train/loss") == history(
        trained(tmp_path, "not", data, teacher, distill=MATCHED), "train/loss"
    )


def test_evaluation_sees_logits_only_and_training_a_distance_beside_them(data):
    teacher, student, schema = networks(data)
    records, _ = ShardSet.open(data, "train").gather(np.arange(5))
    rows = torch.from_numpy(records)
    before = student.eval()(rows)
    add_matching(student, teacher, MATCHED, "ddp", schema)
    assert torch.equal(student(rows), before)
    found = student.train()(rows)
    torch.testing.assert_close(found[:, :3], before)
    inner = [network.network[:7](network.preprocess(rows)) for network in (teacher, student)]
    early = [network.network[:3](network.preprocess(rows)) for network in (teacher, student)]
    projected = student.matching.projections[0](inner[1])
    expected = 0.5 * (projected - inner[0]).square().mean((1, 2, 3)) + 2 * attention_distance(*early)
    torch.testing.assert_close(found[:, 3], expected)
    found.sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_distances_of_images_of_different_sizes_and_of_equal_maps():
    torch.manual_seed(0)
    large, small = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 3, 2)
    pooled = functional.adaptive_avg_pool2d(large, (3, 2))
    torch.testing.assert_close(feature_distance(large, small), (pooled - small).square().mean((1, 2, 3)))
    tokens = torch.randn(2, 5, 8, requires_grad=True)
    distance = attention_distance(3 * tokens.detach(), tokens)
    torch.testing.assert_close(distance, torch.zeros(2))
    distance.sum().backward()
    assert torch.isfinite(tokens.grad).all()


RESNET = {"kind": "torchvision", "name": "resnet18", "norm": "group", "small_images": False, "resize": 32}
BLOCKS = {"kind": "transformer", "width": 8, "depth": 2, "heads": 2, "patch": 3, "dropout": 0.0}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (STUDENT, "network.6"),
        ({"kind": "mlp", "hidden": [8, 4], "dropout": 0.1}, "network.5"),
        (BLOCKS, "network.blocks"),
        (RESNET, "network.layer4"),
    ],
)
def test_auto_is_what_stands_before_the_head(data, model, name):
    schema = load_schema(data)
    rows = torch.zeros((2, *schema.feature.shape), dtype=torch.uint8)
    assert last_layer(build_model(model, schema, None), "features", rows) == name


@pytest.mark.parametrize(
    ("distill", "student", "strategy", "said"),
    [
        (
            {"features": {"layers": [["network.6", "netwrk.6"]], "weight": 1}},
            STUDENT,
            "ddp",
            "did you mean `network.6`",
        ),
        ({"features": {"layers": [["network.5", "network.8"]], "weight": 1}}, STUDENT, "ddp", "cannot be held"),
        ({"features": AUTO}, BLOCKS, "ddp", "cannot be held"),
        ({"attention": AUTO}, {"kind": "mlp", "hidden": [4], "dropout": 0.0}, "ddp", "makes an image or tokens"),
        ({"features": AUTO}, STUDENT, "pipeline", "does not run the whole network"),
    ],
)
def test_what_cannot_be_matched_is_said(data, distill, student, strategy, said):
    teacher, model, schema = networks(data, student=student)
    with pytest.raises(StageError, match=said):
        add_matching(model, teacher, {**PLAIN, **distill}, strategy, schema)


def test_other_numbers_of_tokens_are_refused(data):
    teacher, model, schema = networks(data, BLOCKS, {**BLOCKS, "patch": 2})
    with pytest.raises(StageError, match="the tokens are not the same"):
        add_matching(model, teacher, {**PLAIN, "features": AUTO}, "ddp", schema)


def test_answers_of_other_rows_or_classes_are_refused(tmp_path):
    with pytest.raises(StageError, match="cannot be read"):
        open_logits(str(tmp_path), 4, 3)
    np.save(tmp_path / LOGITS_FILE, np.zeros((4, 2), np.float32))
    with pytest.raises(StageError, match=r"\[4, 2\] logits, and the student needs \[4, 3\]"):
        open_logits(str(tmp_path), 4, 3)
