"""Every model of the table: raw records in, one logit per class out, whatever the batch, and it can be exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayml.errors import StageError
from rayml.ml.models import MODELS, build_model
from rayml.ml.schema import ImageFeature, Normalization, Schema, VectorFeature
from rayml.spec.model import Mlp, SmallCnn
from rayml.stages.export.onnx_file import session_outputs, write_onnx

CONFIGS = {"small_cnn": SmallCnn(kind="small_cnn"), "mlp": Mlp(kind="mlp", hidden=(16,), dropout=0.5)}


def image_schema(height=8, width=8, channels=1, classes=("0", "1", "zwölf")):
    normalization = Normalization(offset=(90.0,) * channels, scale=(50.0,) * channels)
    return Schema(
        feature=ImageFeature(height=height, width=width, channels=channels),
        label="label",
        classes=classes,
        normalization=normalization,
    )


def vector_schema(columns=4, missing=False):
    normalization = Normalization(
        offset=(1.0,) * columns, scale=(2.0,) * columns, missing=(0.5,) * columns if missing else None
    )
    return Schema(
        feature=VectorFeature(columns=tuple(f"größe {n}" for n in range(columns))),
        label="art",
        classes=("a", "b"),
        normalization=normalization,
    )


def records(schema, rows):
    rng = np.random.default_rng(3)
    if isinstance(schema.feature, ImageFeature):
        return rng.integers(0, 256, (rows, *schema.feature.shape)).astype(np.uint8)
    return rng.normal(size=(rows, *schema.feature.shape)).astype(np.float32)


SHAPES = [
    ("small_cnn", image_schema()),
    ("small_cnn", image_schema(5, 7, 3)),
    ("small_cnn", image_schema(1, 1, 1)),
    ("small_cnn", image_schema(33, 32, 3, tuple(map(str, range(100))))),
    ("mlp", image_schema(6, 5, 3)),
    ("mlp", vector_schema()),
    ("mlp", vector_schema(1, missing=True)),
]


def test_the_table_is_covered():
    assert set(CONFIGS) == set(MODELS) == {kind for kind, _ in SHAPES}


@pytest.mark.parametrize(("kind", "schema"), SHAPES, ids=lambda value: getattr(value, "label", value))
def test_trained_and_exported_agree_for_every_batch_size(kind, schema, tmp_path):
    torch.manual_seed(1)
    model = build_model(CONFIGS[kind].model_dump(mode="json"), schema, None).eval()
    path = tmp_path / "model.onnx"
    write_onnx(model, records(schema, 2), schema, 20, {"rayml": "0"}, path)
    for rows in (1, 2, 7):
        batch = records(schema, rows)
        if schema.normalization.missing:
            batch[0, 0] = np.nan
        with torch.no_grad():
            expected = torch.softmax(model(torch.from_numpy(batch)), 1).numpy()
        labels, probabilities = session_outputs(path, schema.feature.name, batch)
        assert probabilities.shape == (rows, len(schema.classes))
        np.testing.assert_allclose(probabilities, expected, atol=1e-6)
        assert labels == [schema.classes[index] for index in expected.argmax(1)]


def test_a_model_that_does_not_take_the_rows_is_refused():
    with pytest.raises(StageError, match="small_cnn takes images"):
        build_model(CONFIGS["small_cnn"].model_dump(), vector_schema(), None)


def test_the_users_own_model(tmp_path):
    (tmp_path / "my_net.py").write_text(
        "from torch import nn\n"
        "def build(schema, units):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(schema.feature.height * schema.feature.width, units),\n"
        "                         nn.ReLU(), nn.Linear(units, len(schema.classes)))\n"
        "def nothing(schema):\n"
        "    return 42\n"
    )
    config = {"kind": "callable", "function": "my_net:build", "args": {"units": 5}}
    model = build_model(config, image_schema(), str(tmp_path))
    assert model(torch.zeros(3, 8, 8, 1, dtype=torch.uint8)).shape == (3, 3)
    with pytest.raises(StageError, match="returned int, not a torch"):
        build_model({"kind": "callable", "function": "my_net:nothing", "args": {}}, image_schema(), str(tmp_path))
