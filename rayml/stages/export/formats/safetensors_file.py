"""`model.safetensors`: the weights, with the section that they belong to in the header. Nothing in it is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rayml.ml.models import Classifier, build_model
from rayml.ml.schema import Schema
from rayml.ml.trained import torch_probabilities
from rayml.stages.export.formats.api import RAYML, Answers, Format, Request, named


def write(request: Request, path: Path) -> None:
    """Save the weights by their names in the model; two names of one tensor are two tensors."""
    document = {**request.metadata, "description": request.description}
    # Safetensors refuses tensors that share memory, as weights that a pass has shared do.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in request.model.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt", RAYML: json.dumps(document, sort_keys=True)})


def load(path: Path, code: str | None = None) -> Classifier:
    """The model of a file that rayml exported, in evaluation mode on the CPU.

    Args:
        code: the folder of the user's modules, where the model is one of them.
    """
    with safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()[RAYML])
    schema = Schema.model_validate(document["schema"])
    model = build_model(document["description"]["model"], schema, code)
    model.load_state_dict(load_file(path))
    return model.eval()


def answers(path: Path, schema: Schema, records: NDArray[Any], code: str | None) -> Answers:
    """By the model that the file's header describes."""
    return named(torch_probabilities(load(path, code), records), schema)


FORMAT = Format("model.safetensors", write, answers)
