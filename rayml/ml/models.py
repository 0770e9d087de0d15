"""The networks by name, and the whole model: raw record in, one logit per class out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from rayml.errors import StageError
from rayml.ml.schema import ImageFeature, Schema
from rayml.ml.transforms import Preprocess
from rayml.ml.usercode import load_callable


class Classifier(nn.Module):
    """Preprocessing and network as one module. `[batch, *shape]` raw records to `[batch, classes]` logits."""

    def __init__(self, schema: Schema, network: nn.Module) -> None:
        super().__init__()
        self.preprocess = Preprocess(schema)
        self.network = network

    def forward(self, raw: Tensor) -> Tensor:
        logits: Tensor = self.network(self.preprocess(raw))
        return logits


def build_model(config: dict[str, Any], schema: Schema, code: str | None) -> Classifier:
    """The model of a `model` section. StageError where the network does not fit the rows."""
    settings = {key: value for key, value in config.items() if key != "kind"}
    if config["kind"] == "callable":
        build = load_callable(settings["function"], code)
        network = build(schema, **settings["args"])
        if not isinstance(network, nn.Module):
            raise StageError(f"{settings['function']} returned {type(network).__name__}, not a torch.nn.Module")
        return Classifier(schema, network)
    return Classifier(schema, MODELS[config["kind"]](schema, **settings))


def small_cnn(schema: Schema, *, width: int, dropout: float) -> nn.Module:
    """Two convolutions, each with group norm, ReLU and pooling, and one linear layer."""
    feature = schema.feature
    if not isinstance(feature, ImageFeature):
        raise StageError("small_cnn takes images, and the rows hold numbers", hint="write model: {kind: mlp}")
    return nn.Sequential(
        nn.Conv2d(feature.channels, width, kernel_size=3, padding=1),
        nn.GroupNorm(4, width),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
        nn.GroupNorm(4, 2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(8 * width, len(schema.classes)),
    )


def mlp(schema: Schema, *, hidden: tuple[int, ...], dropout: float) -> nn.Module:
    """Fully connected layers with ReLU and dropout between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = 1
    for size in schema.feature.shape:
        width *= size
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, len(schema.classes)))


MODELS: dict[str, Callable[..., nn.Module]] = {"small_cnn": small_cnn, "mlp": mlp}
