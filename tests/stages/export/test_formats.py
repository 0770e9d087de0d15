"""Every format of a model file, in its own runtime: the same answers, for any number of rows."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rayml.errors import StageError
from rayml.ml.models import Classifier, build_model
from rayml.ml.schema import ImageFeature, Normalization, Schema, VectorFeature
from rayml.ml.trained import torch_probabilities
from rayml.stages.export.formats.api import Request
from rayml.stages.export.formats.safetensors_file import load
from rayml.stages.export.formats.table import FORMATS, load_format

CLASSES = ("ant", "bee", "cicada")
GREY = Schema(
    feature=ImageFeature(height=8, width=8, channels=1),
    label="label",
    classes=CLASSES,
    normalization=Normalization(offset=(60.0,), scale=(40.0,)),
)
COLOUR = Schema(
    feature=ImageFeature(height=16, width=16, channels=3),
    label="label",
    classes=CLASSES,
    normalization=Normalization(offset=(120.0, 110.0, 100.0), scale=(60.0, 50.0, 55.0)),
)
NUMBERS = Schema(
    feature=VectorFeature(columns=tuple(f"c{number}" for number in range(6))),
    label="label",
    classes=CLASSES,
    normalization=Normalization(offset=(1.0,) * 6, scale=(2.0,) * 6, missing=(0.5,) * 6),
)
RESNET = {"kind": "torchvision", "name": "resnet18", "norm": "batch", "small_images": False, "resize": 32}
MODELS = {
    "small_cnn": ({"kind": "small_cnn", "width": 8, "dropout": 0.3}, GREY),
    "mlp": ({"kind": "mlp", "hidden": [16, 16], "dropout": 0.1}, NUMBERS),
    "transformer": (
        {"kind": "transformer", "width": 16, "depth": 2, "heads": 2, "patch": 2, "dropout": 0.1},
        GREY,
    ),
    "resnet18": (RESNET, COLOUR),
}
METADATA = {"rayml": "0.1", "model": "insects", "version": "0" * 12}


def request_of(config: dict, schema: Schema, model: Classifier | None = None) -> Request:
    torch.manual_seed(3)
    return Request(
        model=(model or build_model(config, schema, None)).eval(),
        description={"model": config, "task": "image_classification"},
        schema=schema,
        metadata={**METADATA, "schema": schema.model_dump(mode="json")},
        opset=20,
        code=None,
    )


def rows_of(schema: Schema, count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    shape = (count, *schema.feature.shape)
    if isinstance(schema.feature, ImageFeature):
        return rng.integers(0, 256, shape).astype(np.uint8)
    rows = rng.normal(1.0, 3.0, shape).astype(np.float32)
    rows[0, 0] = np.nan
    return rows


def written(name: str, request: Request, folder: Path) -> Path:
    file = load_format(name)
    file.write(request, folder / file.file)
    return folder / file.file


SLOW = {("executorch", "transformer"), ("torchscript", "resnet18"), ("torch_export", "resnet18")}
"""Combinations that show nothing more, and take seconds."""


@pytest.mark.parametrize(("name", "model"), sorted({(name, model) for name in FORMATS for model in MODELS} - SLOW))
def test_the_file_answers_as_the_model_does_for_any_number_of_rows(name, model, tmp_path):
    request = request_of(*MODELS[model])
    path = written(name, request, tmp_path)
    for count in (1, 2, 19):
        rows = rows_of(request.schema, count)
        labels, probabilities = load_format(name).answers(path, request.schema, rows, None)
        expected = torch_probabilities(request.model, rows)
        np.testing.assert_allclose(probabilities, expected, atol=2e-6)
        assert labels == [CLASSES[index] for index in expected.argmax(axis=1)]


@pytest.mark.parametrize("name", FORMATS)
def test_the_file_says_what_it_is_and_nothing_of_this_machine(name, tmp_path):
    request = request_of(*MODELS["small_cnn"])
    path = written(name, request, tmp_path)
    parts = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts += [archive.read(entry) for entry in archive.namelist()]
    whole = b"\n".join(parts)
    assert b"site-packages" not in whole
    assert str(Path(__file__).parents[3]).encode() not in whole
    assert b"insects" in whole
    assert b"cicada" in whole


def test_executorch_says_that_it_takes_one_row(tmp_path):
    pytest.importorskip("executorch")
    from executorch.runtime import Runtime

    path = written("executorch", request_of(*MODELS["mlp"]), tmp_path)
    method = Runtime.get().load_program(path).load_method("forward")
    assert method.metadata.input_tensor_meta(0).sizes() == (1, 6)
    about = Runtime.get().load_program(path).load_method("rayml").execute([])[0]
    assert json.loads(bytes(about.tolist()))["model"] == "insects"


def test_metadata_is_read_by_each_library_itself(tmp_path):
    request = request_of(*MODELS["mlp"])
    extra = {"rayml": ""}
    torch.export.load(written("torch_export", request, tmp_path), extra_files=extra)
    assert json.loads(extra["rayml"])["model"] == "insects"
    extra = {"rayml": ""}
    torch.jit.load(str(written("torchscript", request, tmp_path)), _extra_files=extra)
    assert json.loads(extra["rayml"])["model"] == "insects"


def test_safetensors_is_a_model_again_and_weights_that_are_shared_are_there_for_each_name(tmp_path):
    config, schema = MODELS["mlp"]
    model = build_model(config, schema, None)
    linear = [each for each in model.network if isinstance(each, nn.Linear)]
    linear[1].bias = linear[0].bias
    request = request_of(config, schema, model)
    again = load(written("safetensors", request, tmp_path))
    assert not again.training
    rows = rows_of(schema, 5)
    np.testing.assert_array_equal(torch_probabilities(again, rows), torch_probabilities(request.model, rows))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        y = self.linear(x)
        return y if y.sum().item() > 0 else -y


@pytest.mark.parametrize("name", ["onnx", "torch_export", "executorch"])
def test_a_branch_on_the_rows_is_refused_with_a_sentence(name, tmp_path):
    request = request_of(*MODELS["mlp"], Classifier(NUMBERS, Branching()))
    with pytest.raises(StageError, match=r"(?i)data-dependent"):
        written(name, request, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_branch_that_torchscript_freezes_shows_in_its_answers(tmp_path):
    """Tracing takes one way and says nothing, which is why no file is believed before it has answered."""
    torch.manual_seed(0)
    request = request_of(*MODELS["mlp"], Classifier(NUMBERS, Branching()))
    path = written("torchscript", request, tmp_path)
    rows = rows_of(NUMBERS, 64)
    found = [load_format("torchscript").answers(path, NUMBERS, rows[place : place + 1], None)[1] for place in range(64)]
    expected = [torch_probabilities(request.model, rows[place : place + 1]) for place in range(64)]
    assert np.abs(np.concatenate(found) - np.concatenate(expected)).max() > 0.1
