"""The network of a student: the job's own made narrower and shallower, the same again, or one that the job names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from rayml.errors import StageError
from rayml.ml.models import build_model
from rayml.ml.schema import Schema
from rayml.spec.model import TORCHVISION_MODELS

WHERE = "compress.ladder.student"
NAME_ONE = "name a student, for example student: {kind: small_cnn, width: 8}"

Model = dict[str, Any]
"""A `model` section."""


def student_of(section: dict[str, Any], own: Model, schema: Schema) -> Model:
    """The `model` section of a `student` section.

    Args:
        own: the job's network. What passes have changed in it (`surgery`) is left behind.

    Raises:
        StageError: a student cannot be derived from such a network.
    """
    base = {key: value for key, value in own.items() if key != "surgery"}
    if section["kind"] == "same":
        return base
    if section["kind"] != "derived":
        return section
    return {**base, **DERIVED[base["kind"]](base, section["width"], section["depth"], schema)}


def narrow_cnn(base: Model, width: float, depth: float, schema: Schema) -> Model:
    """Fewer channels; group norm takes multiples of 4."""
    if depth < 1:
        raise StageError(
            "small_cnn has two convolutions and cannot be shallower", where=f"{WHERE}.depth", hint=NAME_ONE
        )
    return {"width": multiple(base["width"] * width, 4)}


def narrow_mlp(base: Model, width: float, depth: float, schema: Schema) -> Model:
    """Fewer units in each hidden layer, and only the first hidden layers."""
    hidden = base["hidden"]
    if not hidden:
        raise StageError("mlp without a hidden layer cannot be smaller", where=WHERE, hint="leave the pass out")
    layers = max(1, round(len(hidden) * depth))
    return {"hidden": [multiple(units * width, 1) for units in hidden[:layers]]}


def narrow_transformer(base: Model, width: float, depth: float, schema: Schema) -> Model:
    """The same heads, narrower, and fewer blocks."""
    return {"width": multiple(base["width"] * width, base["heads"]), "depth": max(1, round(base["depth"] * depth))}


def smaller_of_family(base: Model, width: float, depth: float, schema: Schema) -> Model:
    """The largest network of the family with at most the share `width` of the parameters, else its smallest."""
    name = base["name"]
    family = [each for each in TORCHVISION_MODELS if family_of(each) == family_of(name)]
    sizes = {each: size for each in family if (size := size_of({**base, "name": each}, schema)) is not None}
    smaller = {each: size for each, size in sizes.items() if size < sizes[name]}
    if not smaller:
        raise StageError(
            f"{name} is the smallest of its family",
            where=WHERE,
            hint="name a student, for example student: {kind: torchvision, name: mobilenet_v3_small}",
        )
    fitting = {each: size for each, size in smaller.items() if size <= width * depth * sizes[name]}
    return {"name": max(fitting, key=fitting.__getitem__) if fitting else min(smaller, key=smaller.__getitem__)}


def family_of(name: str) -> str:
    """`resnet` of resnet50, `efficientnet` of efficientnet_b0."""
    return re.split(r"[^a-z]", name, maxsplit=1)[0]


def size_of(model: Model, schema: Schema) -> int | None:
    """Parameters of a network, which gets no values; None where it does not fit the rows."""
    try:
        with torch.device("meta"):
            return sum(each.numel() for each in build_model(model, schema, None).parameters())
    except StageError:
        return None


def no_rule(base: Model, width: float, depth: float, schema: Schema) -> Model:
    raise StageError(
        f"{base['function']} is a function of the job's own: nothing says how to make its network smaller",
        where=WHERE,
        hint="name a student, for example student: {kind: callable, function: ..., args: {width: 16}}",
    )


def multiple(number: float, unit: int) -> int:
    """The nearest multiple of a unit, at least one."""
    return unit * max(1, round(number / unit))


DERIVED: dict[str, Callable[[Model, float, float, Schema], Model]] = {
    "small_cnn": narrow_cnn,
    "mlp": narrow_mlp,
    "transformer": narrow_transformer,
    "torchvision": smaller_of_family,
    "callable": no_rule,
}
"""Kind of network to what changes in its section, for a share of the width and of the depth."""
