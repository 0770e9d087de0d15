"""What the tests of passes share: networks of every kind on small rows, and work for a pass."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from stages.train.ranks import make_shards

from rayml.ml.checkpoint import save_weights
from rayml.ml.models import build_model
from rayml.ml.onnx_export import write_onnx
from rayml.ml.shards import load_schema
from rayml.ml.trained import frozen_sample
from rayml.stages.compress.api import Candidate, Work

CNN = {"kind": "small_cnn", "width": 32, "dropout": 0.0}
MLP = {"kind": "mlp", "hidden": [64, 48], "dropout": 0.0}
TRANSFORMER = {"kind": "transformer", "width": 32, "depth": 4, "heads": 4, "patch": 4, "dropout": 0.0}
RESNET = {
    "kind": "torchvision",
    "name": "resnet18",
    "norm": "batch",
    "small_images": True,
    "resize": None,
}
KINDS = {"small_cnn": CNN, "mlp": MLP, "transformer": TRANSFORMER, "resnet18": RESNET}
FINETUNE = {
    "epochs": 0,
    "optimizer": None,
    "schedule": None,
    "batch_size": None,
    "teacher": "none",
    "temperature": 2.0,
    "hard": 0.3,
}


def make_candidate(folder: Path, data: Path, model: dict) -> Candidate:
    """A network with random weights in both forms."""
    folder.mkdir(parents=True)
    schema = load_schema(data)
    torch.manual_seed(3)
    network = build_model(model, schema, None).eval()
    (folder / "model.json").write_text(json.dumps({"model": model, "task": "image_classification"}))
    save_weights(folder, network.state_dict())
    export(network, data, folder / "model.onnx")
    return Candidate(folder)


def export(network, data: Path, path: Path) -> None:
    schema = load_schema(data)
    metadata = {"rayml": "0", "model": "m", "run": "r", "version": "v", "schema": schema.model_dump(mode="json")}
    write_onnx(network, frozen_sample(data, 2)[1], schema, 20, metadata, path)


def make_work(tmp_path: Path, model: dict, config: dict, train=None, data: Path | None = None) -> Work:
    data = data or make_shards(tmp_path / "data")
    candidate = make_candidate(tmp_path / "parent", data, model)
    out = tmp_path / "out"
    out.mkdir()
    return Work(
        config={"finetune": FINETUNE, "keep": [], **config},
        seed=0,
        schema=load_schema(data),
        data=data,
        code=None,
        original=candidate,
        parent=candidate,
        out=out,
        threads=1,
        train=train or (lambda model, start, settings: dict(start)),
        note=lambda text: None,
    )
