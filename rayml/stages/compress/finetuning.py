"""What passes that change a network share: which layers a pattern names, and how what is left is trained."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from rayml.errors import StageError
from rayml.ml.models import Classifier
from rayml.spec.words import nearest

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Layers that have weights worth taking away."""


def named_layers(model: Classifier, patterns: list[str]) -> dict[str, nn.Module]:
    """The layers that patterns name, by name. StageError for a pattern that names none."""
    layers = {name: each for name, each in model.named_modules() if isinstance(each, LAYERS)}
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        names = [name for name in layers if fnmatchcase(name, pattern)]
        if not names:
            near = nearest(pattern, list(layers))
            hint = f"did you mean `{near}`?" if near else f"its layers: {', '.join(list(layers)[:8])}"
            raise StageError(f"no layer is called `{pattern}`", where="compress.ladder.keep", hint=hint)
        found |= {name: layers[name] for name in names}
    return found


def training(config: dict[str, Any], parts: int = 1) -> dict[str, Any]:
    """What is not as in the train section, for one of several parts."""
    finetune = config["finetune"]
    settings: dict[str, Any] = {"epochs": max(1, finetune["epochs"] // parts)}
    settings |= {key: finetune[key] for key in ("optimizer", "schedule", "batch_size") if finetune[key] is not None}
    if finetune["teacher"] == "uncompressed":
        settings["distill"] = {
            "temperature": finetune["temperature"],
            "hard": finetune["hard"],
            "features": None,
            "attention": None,
        }
    return settings
