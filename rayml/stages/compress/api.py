"""What a compression pass is: `run(work) -> Made`. Each is a file in passes/ and a line in passes/table.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from rayml.ml.models import Classifier
from rayml.ml.schema import Schema
from rayml.ml.trained import MODEL_FILE, load_trained

ONNX_FILE = "model.onnx"


@dataclass(frozen=True)
class Candidate:
    """A model in two forms: the ONNX file that is measured, and the network of torch that it came from.

    A pass that changes only the file (quantize, optimize) leaves the network of the candidate before it.
    """

    folder: Path
    """Holds `model.onnx` (raw records in, `label` and `probabilities` out), `model.json` and `model.safetensors`."""

    @property
    def onnx(self) -> Path:
        return self.folder / ONNX_FILE

    @property
    def config(self) -> dict[str, Any]:
        """The `model` section of the network, with a list `surgery` of what passes changed (rayml.ml.surgery)."""
        config: dict[str, Any] = json.loads((self.folder / MODEL_FILE).read_bytes())["model"]
        return config

    def network(self, schema: Schema, code: str | None) -> Classifier:
        """The network with its weights, in evaluation mode on the CPU."""
        return load_trained(self.folder, schema, code)


class Train(Protocol):
    """Distributed training of a changed network, by an inner train step."""

    def __call__(
        self, model: dict[str, Any], start: Mapping[str, Tensor] | None, settings: dict[str, Any]
    ) -> dict[str, Tensor]:
        """The best weights by name.

        Args:
            model: a `model` section, which may have `surgery`.
            start: first weights; None for random ones.
            settings: overrides of the train step's configuration by key: `epochs`, `optimizer`, `schedule`,
                `batch_size`, `distill` (see rayml.stages.train.distill), `quantize` (fake quantization).
        """
        ...


@dataclass(frozen=True)
class Work:
    """What a pass is given."""

    config: dict[str, Any]
    """The pass's section with every "auto" resolved that the plan can resolve."""
    seed: int
    schema: Schema
    data: Path
    """Folder of the canonical shards."""
    code: str | None
    """Folder of the user's modules."""
    original: Candidate
    """The uncompressed model."""
    parent: Candidate
    """What this pass changes."""
    out: Path
    """An empty folder. A pass that changes the file writes `model.onnx` here."""
    threads: int
    train: Train
    note: Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """What a pass left."""

    config: dict[str, Any] | None = None
    """The changed network's `model` section; None where the pass wrote `out/model.onnx` instead."""
    weights: Mapping[str, Tensor] | None = None
    """The changed network's weights."""
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON for the report: layers kept, ratios, ranges, what the runtime gains."""
    masked: bool = False
    """Whether weights were only set to 0: such a candidate is shown, and is refused as a result."""


class Pass(Protocol):
    """A way to make a model smaller or faster."""

    def __call__(self, work: Work) -> Made: ...
