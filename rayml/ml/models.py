"""The networks by name, and the whole model: raw record in, one logit per class out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rayml.errors import StageError
from rayml.ml import surgery
from rayml.ml.schema import ImageFeature, Schema
from rayml.ml.torchvision_models import Resize, torchvision_network
from rayml.ml.transformer import transformer
from rayml.ml.transforms import Preprocess
from rayml.ml.usercode import describe_failure, load_callable


class Classifier(nn.Module):
    """Preprocessing and network as one module. `[batch, *shape]` raw records to `[batch, classes]` logits.

    `resize`: height and width in pixels to which an image is brought before the network; None leaves it as it is.
    """

    def __init__(self, schema: Schema, network: nn.Module, resize: int | None = None) -> None:
        super().__init__()
        self.preprocess = Preprocess(schema)
        self.resize = nn.Identity() if resize is None else Resize(resize)
        self.network = network

    def forward(self, raw: Tensor) -> Tensor:
        logits: Tensor = self.network(self.resize(self.preprocess(raw)))
        return logits


def build_model(config: dict[str, Any], schema: Schema, code: str | None) -> Classifier:
    """The model of a `model` section, with what passes have changed in it. StageError where it does not fit the rows.

    `config`: the section, and `surgery` beside its keys (rayml.ml.surgery) where passes have changed the network.
    """
    model = build_unchanged({key: value for key, value in config.items() if key != "surgery"}, schema, code)
    surgery.apply(model, config.get("surgery", []))
    return model


def build_unchanged(config: dict[str, Any], schema: Schema, code: str | None) -> Classifier:
    """The model as its kind makes it."""
    settings = {key: value for key, value in config.items() if key != "kind"}
    if config["kind"] == "callable":
        return build_own(settings["function"], settings["args"], schema, code)
    model = Classifier(schema, MODELS[config["kind"]](schema, **settings), settings.get("resize"))
    if config["kind"] == "torchvision":
        require_fit(model, schema)
    return model


def require_fit(model: Classifier, schema: Schema) -> None:
    """StageError where the network cannot take the rows. Nothing is computed: tensors without values show it."""
    tensors = {name: tensor.detach().to("meta") for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    rows = torch.zeros((2, *schema.feature.shape), dtype=getattr(torch, schema.feature.dtype), device="meta")
    model.eval()
    try:
        torch.func.functional_call(model, tensors, (rows,))
    except Exception as error:
        raise StageError(
            f"the network cannot take {describe(rows)}: {' '.join(str(error).split())}",
            where="model",
            hint="set model.resize, for example to 224, or name another network",
        ) from error
    model.train()


def build_own(function: str, arguments: dict[str, Any], schema: Schema, code: str | None) -> Classifier:
    """The model with a network of the user's. It is asked once, so that a misfit is a sentence and not a stack trace.

    Raises:
        StageError: the function raises or returns no network, or the network cannot take the rows.
    """
    build = load_callable(function, code)
    try:
        network = build(schema, **arguments)
    except (Exception, SystemExit) as error:
        raise StageError(f"the function raised {describe_failure(error, code)}", where=function) from error
    if not isinstance(network, nn.Module):
        raise StageError(f"the function returned {type(network).__name__}, not a torch.nn.Module", where=function)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise StageError("the network has no parameter to train", where=function)
    model = Classifier(schema, network)
    rows = torch.zeros((2, *schema.feature.shape), dtype=getattr(torch, schema.feature.dtype))
    with torch.no_grad():
        features = model.preprocess(rows)
        try:
            logits = model.eval()(rows)
        except Exception as error:
            what = f"the network raised {describe_failure(error, code)} for {describe(features)}"
            raise StageError(what, where=function) from error
    wanted = (2, len(schema.classes))
    if not isinstance(logits, Tensor) or logits.shape != wanted or logits.dtype != torch.float32:
        raise StageError(
            f"the network makes {describe(logits)} of {describe(features)}; {list(wanted)} float32 is wanted",
            where=function,
            hint="one number per class and row, before softmax: nn.Linear(..., len(schema.classes))",
        )
    model.train()
    return model


def describe(value: object) -> str:
    """Shape and dtype of a tensor; the type of anything else."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"


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


MODELS: dict[str, Callable[..., nn.Module]] = {
    "small_cnn": small_cnn,
    "mlp": mlp,
    "transformer": transformer,
    "torchvision": torchvision_network,
}
