"""A small network whose parameters are of every sort, and steps on it: shared by the tests of the recipe."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from rayml.spec.optimizer import Optimizer

BASE = {
    "sgd": {"kind": "sgd", "lr": 0.05, "nesterov": True, "weight_decay": 0.01},
    "plain sgd": {"kind": "sgd", "lr": 0.05, "momentum": 0.0},
    "adam": {"kind": "adam", "weight_decay": 0.01},
    "adamw": {"kind": "adamw"},
    "adafactor": {"kind": "adafactor"},
    "lamb": {"kind": "lamb", "lr": 0.01},
    "lars": {"kind": "lars", "trust": 0.02},
    "lion": {"kind": "lion", "weight_decay": 0.1},
    "muon": {"kind": "muon"},
}


def section(name: str, **changes: Any) -> dict[str, Any]:
    """An `optimizer` section as the stage gets it."""
    spec = TypeAdapter(Optimizer).validate_python({**BASE[name], **changes})
    return spec.model_dump(mode="json")


class Network(nn.Module):
    """Named like a Classifier: everything is below `network`. Odd sizes, fewer rows than ranks in the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 6, 3),
            nn.GroupNorm(3, 6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24, 7),
            nn.LayerNorm(7),
            nn.Tanh(),
            nn.Linear(7, 5),
            nn.Linear(5, 1, bias=False),
            nn.Linear(1, 3),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network()


def gradients(model: nn.Module, first: int, last: int) -> Any:
    """Backward of the steps `first` to `last`, each on rows of its own; the caller steps."""
    # Named once: after a prediction FSDP2 leaves the gathered weights in the model, and those have no gradients.
    parameters = list(model.parameters())
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 1, 4, 4, generator=generator)
        labels = torch.randint(0, 3, (8,), generator=generator)
        for parameter in parameters:
            parameter.grad = None
        nn.functional.cross_entropy(model(images), labels).backward()
        yield step
