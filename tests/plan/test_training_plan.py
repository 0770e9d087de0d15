"""What a train section resolves to, and what is refused with every factor before a worker starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayml.errors import PlanError
from rayml.plan.facts import GIB, Facts, Weights, find_weights
from rayml.plan.plan import ClusterPlan
from rayml.plan.training import resolve_train
from rayml.spec.job import JobSpec


def job(model=None, **train):
    return JobSpec.model_validate(
        {
            "name": "planned",
            "data": {"source": {"kind": "sklearn", "name": "digits"}},
            "task": {"kind": "image_classification"},
            "model": model or {"kind": "mlp", "hidden": [32, 16]},
            "train": train,
        }
    )


def plan(spec, cpus=8, gpus=0, start=None, linux=True):
    facts = Facts(cpus=cpus, gpus=gpus, memory=8 * GIB, source="", code={}, start=start, linux=linux)
    return resolve_train(spec, ClusterPlan(cpus=cpus, gpus=gpus, object_store=0), facts)


@pytest.mark.parametrize(
    ("train", "what", "hint"),
    [
        (
            {"workers": 4, "strategy": {"kind": "fsdp", "replicate": 3}},
            "replicate 3 x shard auto is not 4 workers",
            "replicate 1 x shard 4, replicate 2 x shard 2, replicate 4 x shard 1",
        ),
        (
            {"workers": 6, "strategy": {"kind": "tensor_parallel", "data": 2, "tensor": 2}},
            "data 2 x tensor 2 is not 6 workers",
            "data 2 x tensor 3",
        ),
        (
            {"workers": 4, "strategy": {"kind": "pipeline", "stages": 3}},
            "data 1 x stages 3 is not 4",
            "data 1 x stages 4",
        ),
        ({"workers": 2, "strategy": {"kind": "local"}}, "2 workers, and strategy local is one process", "workers=1"),
        (
            {"workers": 2, "accumulation": 4, "batch_size": 60},
            "batch_size 60 = 2 shares x accumulation 4 x 7.5 rows",
            "56 and 64",
        ),
        ({"workers": 4, "batch_size": 3}, "batch_size 3 = 4 shares x accumulation 1 x 0.75 rows", "fit: 4;"),
        ({"workers": 9}, "9 workers, and the cluster has 8 CPUs", "workers=8"),
    ],
)
def test_factors_that_do_not_fit_are_printed_with_those_that_do(train, what, hint):
    with pytest.raises(PlanError) as caught:
        plan(job(**train))
    assert what in caught.value.what
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("train", "batch_size"),
    [({"workers": 2}, 64), ({"workers": 3}, 63), ({"workers": 5, "accumulation": 2}, 60), ({"workers": 8}, 64)],
)
def test_auto_is_the_batch_nearest_to_64_that_divides(train, batch_size):
    config, _, _ = plan(job(**train))
    assert config["batch_size"] == batch_size


@pytest.mark.parametrize(
    ("train", "machine", "transport"),
    [
        ({"workers": 2}, {}, "shared_memory"),
        ({"workers": 1}, {}, "network"),
        ({"workers": 8}, {}, "network"),
        ({"workers": 2}, {"gpus": 2}, "network"),
        ({"workers": 2}, {"linux": False}, "network"),
        ({"workers": 2, "launcher": "ray_train"}, {}, "network"),
        ({"workers": 2, "strategy": {"kind": "ddp", "bucket_mb": 5}}, {}, "network"),
        ({"workers": 2, "strategy": {"kind": "ddp", "compress": "bf16"}}, {}, "network"),
        ({"workers": 2, "strategy": {"kind": "ddp", "transport": "network"}}, {}, "network"),
    ],
)
def test_gradients_go_through_memory_where_they_can(train, machine, transport):
    config, _, _ = plan(job(**train), **machine)
    assert config["strategy"]["transport"] == transport


@pytest.mark.parametrize(
    ("train", "launcher", "ray"),
    [
        ({}, "processes", False),
        ({"launcher": "ray_train"}, "ray_train", True),
        ({"strategy": {"kind": "parameter_server"}}, "ray_train", True),
        ({"strategy": {"kind": "local"}}, "inline", False),
    ],
)
def test_who_starts_the_ranks(train, launcher, ray):
    _, policy, resources = plan(job(**train))
    assert (policy["launcher"], resources.ray, resources.alone) == (launcher, ray, not ray)


def test_weights_of_another_model_are_refused_with_what_differs():
    spec = job(workers=2, start={"kind": "folder", "path": "weights"})
    theirs = Weights("d" * 64, "weights", {"kind": "mlp", "hidden": [64, 16], "dropout": 0.3})
    with pytest.raises(PlanError) as caught:
        plan(spec, start=theirs)
    assert "hidden [32, 16] (there [64, 16])" in caught.value.what
    assert "dropout" not in caught.value.what
    renamed = job(workers=2, start={"kind": "folder", "path": "weights", "rename": {"a.*": "b.*"}})
    assert plan(renamed, start=theirs)[0]["start"]["digest"] == "d" * 64


def test_a_folder_of_weights_is_known_by_its_files_and_its_model(tmp_path):
    spec = job(start={"kind": "folder", "path": "größe"})
    with pytest.raises(PlanError, match="there is no"):
        find_weights(spec, tmp_path, None)
    folder = tmp_path / "größe"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    first = find_weights(spec, tmp_path, None)
    assert (first.path, first.model) == (str(folder), None)
    (folder / "model.json").write_text(json.dumps({"model": {"kind": "mlp"}}))
    second = find_weights(spec, Path(tmp_path), None)
    assert second.model == {"kind": "mlp"}
    assert second.digest != first.digest
    (folder / "model.json").write_text("[")
    assert find_weights(spec, tmp_path, None).model is None
    (folder / "old.safetensors").symlink_to("nowhere")
    with pytest.raises(PlanError, match=r"old\.safetensors cannot be read: No such file"):
        find_weights(spec, tmp_path, None)
