"""`model.pt2`: the graph of torch.export, which PyTorch loads without any of the code that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from rayml.ml.onnx_export import WithProbabilities, quiet
from rayml.ml.schema import Schema
from rayml.stages.export.formats.api import RAYML, Answers, Format, Request, example, named, refused


def traced(request: Request, single: bool = False) -> torch.export.ExportedProgram:
    """The model with its preprocessing as a graph of ATen operators, for any number of rows or for a single one."""
    rows = example(request.schema)
    shapes = None if single else ({0: torch.export.Dim("batch", min=1)},)
    with quiet(), torch.no_grad():
        try:
            program = torch.export.export(
                WithProbabilities(request.model).eval(), (rows[:1] if single else rows,), dynamic_shapes=shapes
            )
        except Exception as error:
            hint = "torch.export has no form for a branch that depends on the rows' values"
            raise refused("torch.export cannot trace the model", error, request.code, hint) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has paths of this machine
    return program


def write(request: Request, path: Path) -> None:
    """Save the graph, with the metadata as an extra file inside."""
    torch.export.save(traced(request), path, extra_files={RAYML: json.dumps(request.metadata, sort_keys=True)})


@torch.no_grad()
def answers(path: Path, schema: Schema, records: NDArray[Any], code: str | None) -> Answers:
    """By the loaded graph."""
    return named(torch.export.load(path).module()(torch.from_numpy(records)).numpy(), schema)


FORMAT = Format("model.pt2", write, answers)
