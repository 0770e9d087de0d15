"""Fine-tuning in a job file: what fits together, and what each section is by default."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from rayml.spec.model import Model
from rayml.spec.start import Adapter, FreezeSpec, Start, finetune_misfits

RESNET = {"kind": "torchvision"}
FREEZE = ({"pattern": "network.layer*"},)


@pytest.mark.parametrize(
    ("model", "start", "freeze", "adapter", "paths"),
    [
        (RESNET, {"kind": "torchvision", "head": "replace"}, FREEZE, None, []),
        (RESNET, {"kind": "hub", "name": "a/b", "rename": {"*.x.*": "*.*", "y": "z"}}, (), {"kind": "lora"}, []),
        ({"kind": "mlp"}, None, (), {"kind": "ia3"}, []),
        ({"kind": "mlp"}, None, FREEZE, {"kind": "ia3"}, ["train.freeze"]),
        ({"kind": "mlp"}, {"kind": "torchvision"}, (), None, ["train.start.kind"]),
        ({**RESNET, "norm": "group"}, {"kind": "torchvision"}, (), None, ["model.norm"]),
        ({**RESNET, "norm": "group"}, {"kind": "run", "run": "r-1"}, (), None, []),
        ({**RESNET, "small_images": True}, {"kind": "torchvision"}, (), None, ["model.small_images"]),
        (RESNET, {"kind": "folder", "path": "x", "rename": {"a.*": "*.*"}}, (), None, ["train.start.rename"]),
    ],
)
def test_what_fits_together(model, start, freeze, adapter, paths):
    found = finetune_misfits(
        TypeAdapter(Model).validate_python(model),
        TypeAdapter(Start | None).validate_python(start),
        TypeAdapter(tuple[FreezeSpec, ...]).validate_python(freeze),
        TypeAdapter(Adapter | None).validate_python(adapter),
    )
    assert [path for path, _ in found] == paths
    assert all(len(sentence) > 20 for _, sentence in found)


def test_what_is_meant_by_default():
    start = TypeAdapter(Start).validate_python({"kind": "torchvision"})
    assert start.model_dump(mode="json") == {"kind": "torchvision", "weights": "DEFAULT", "rename": {}, "head": "keep"}
    adapter = TypeAdapter(Adapter).validate_python({"kind": "lora"}).model_dump(mode="json")
    assert adapter == {
        "kind": "lora",
        "rank": 8,
        "alpha": "auto",
        "dropout": 0.0,
        "targets": "all",
        "train_head": True,
    }
