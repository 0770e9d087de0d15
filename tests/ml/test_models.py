"""Every model of the table: raw records in, one logit per class out, whatever the batch, and it can be exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision import models

from rayml.errors import StageError
from rayml.ml.models import MODELS, build_model
from rayml.ml.onnx_export import session_outputs, write_onnx
from rayml.ml.schema import ImageFeature, Normalization, Schema, VectorFeature
from rayml.spec.model import TORCHVISION_MODELS, Mlp, SmallCnn, TorchvisionModel, Transformer

CONFIGS = {
    "small_cnn": SmallCnn(kind="small_cnn"),
    "mlp": Mlp(kind="mlp", hidden=(16,), dropout=0.5),
    "transformer": Transformer(kind="transformer", width=24, depth=2, heads=3, patch=3, dropout=0.2),
    "torchvision": TorchvisionModel(kind="torchvision", norm="group", resize=33),
}


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
    ("transformer", image_schema(7, 5, 3)),
    ("transformer", image_schema(1, 1, 1)),
    ("transformer", vector_schema(5, missing=True)),
    ("torchvision", image_schema(40, 21, 1)),
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


def build(spec, schema):
    return build_model(spec.model_dump(mode="json"), schema, None)


@pytest.mark.parametrize(
    ("spec", "schema", "said"),
    [
        (CONFIGS["small_cnn"], vector_schema(), "small_cnn takes images"),
        (TorchvisionModel(kind="torchvision"), vector_schema(), "torchvision's networks take images"),
        (TorchvisionModel(kind="torchvision", name="resnet19"), image_schema(), "did you mean resnet1"),
        (
            TorchvisionModel(kind="torchvision", name="alexnet"),
            image_schema(),
            r"cannot take \[2, 8, 8, 1\] uint8: .*small",
        ),
        (TorchvisionModel(kind="torchvision", name="vit_b_16"), image_schema(32, 48), "square images.* 32 x 48 pixels"),
        (TorchvisionModel(kind="torchvision", name="maxvit_t"), image_schema(50, 50), "not divisible by partition"),
        (TorchvisionModel(kind="torchvision", name="vgg11", small_images=True), image_schema(32, 32), "ResNets only"),
        (Transformer(kind="transformer", width=10, heads=4), image_schema(), "10 does not divide by 4 heads"),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "kind", None)),
)
def test_a_model_that_does_not_take_the_rows_is_refused(spec, schema, said):
    with pytest.raises(StageError, match=said):
        build(spec, schema)


def test_the_names_of_weights_stay():
    names = list(build(CONFIGS["small_cnn"], image_schema()).state_dict())
    assert names == [f"network.{layer}.{part}" for layer in (0, 1, 4, 5, 10) for part in ("weight", "bias")]
    names = list(build(CONFIGS["mlp"], vector_schema()).state_dict())
    assert names == [f"network.{layer}.{part}" for layer in (1, 4) for part in ("weight", "bias")]
    names = list(build(TorchvisionModel(kind="torchvision"), image_schema(32, 32, 3)).state_dict())
    assert names[0] == "network.conv1.weight"
    assert names[-1] == "network.fc.bias"


def test_the_list_of_networks_is_torchvisions():
    assert sorted(TORCHVISION_MODELS) == models.list_models(module=models)


ONE_OF_EACH_FAMILY = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "resnet18", "resnet50", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16", "wide_resnet50_2"),
)


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_networks_of_torchvision_take_gray_images(name):
    """On the meta device, so that nothing is computed. RegNets compute while they are built."""
    with torch.device("meta"):
        model = build(TorchvisionModel(kind="torchvision", name=name, resize=224), image_schema(90, 60))
        logits = model.eval()(torch.zeros(2, 90, 60, 1, dtype=torch.uint8))
    assert logits.shape == (2, 3)


def test_a_regnet_is_built():
    model = build(TorchvisionModel(kind="torchvision", name="regnet_x_400mf"), image_schema(32, 32))
    assert model.eval()(torch.zeros(2, 32, 32, 1, dtype=torch.uint8)).shape == (2, 3)


def test_group_norm_leaves_rows_alone():
    """What a row's answer is does not depend on the other rows, in training too."""
    schema = image_schema(32, 32, 3)
    rows = torch.from_numpy(records(schema, 4))
    model = build(TorchvisionModel(kind="torchvision", norm="group", small_images=True), schema).train()
    assert not any("BatchNorm" in type(module).__name__ for module in model.modules())
    torch.testing.assert_close(model(rows)[:1], model(rows[:1]), atol=1e-5, rtol=1e-5)
    assert model.network.conv1.stride == (1, 1)
    assert not torch.allclose(
        *(build(TorchvisionModel(kind="torchvision"), schema)(part)[:1] for part in (rows, rows[:2]))
    )


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
