"""Writing and running the ONNX file: raw records in, `label` and `probabilities` out, dynamic batch, pinned opset."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from rayml.errors import StageError
from rayml.ml import tasks
from rayml.ml.models import Classifier
from rayml.ml.onnx_session import open_session
from rayml.ml.schema import Schema
from rayml.ml.usercode import own_line

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the module that a node came from."""


class WithProbabilities(nn.Module):
    """Raw records `[batch, *shape]` to probabilities `[batch, classes]`, as every exported file answers."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, raw: Tensor) -> Tensor:
        return tasks.probabilities(self.model(raw))


def write_onnx(
    model: Classifier,
    example: NDArray[Any],
    schema: Schema,
    opset: int,
    metadata: dict[str, Any],
    path: Path,
    code: str | None = None,
) -> None:
    """Export a model with its preprocessing to one file. StageError where an operator has no ONNX form.

    `example`: at least two raw records `[n, *shape]`; a batch of one would be taken for a constant.
    `code`: the folder of the user's modules, whose line is named where the export fails.
    """
    graph = trace(WithProbabilities(model).eval(), example, schema, opset, code)
    add_label(graph, schema.classes)
    graph.producer_name = "rayml"
    graph.producer_version = str(metadata["rayml"])
    helper.set_model_props(graph, {"rayml": json.dumps(metadata, sort_keys=True)})
    onnx.checker.check_model(graph, full_check=True)
    leave_out_notes(graph)
    onnx.save_model(graph, path)


def relabel(source: Path, path: Path, metadata: dict[str, Any]) -> None:
    """Copy a model file, with another account of what it is. Weights and nodes stay as they are."""
    model = onnx.load(source)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, {**properties, "rayml": json.dumps(metadata, sort_keys=True)})
    onnx.save_model(model, path)


def leave_out_notes(model: onnx.ModelProto) -> None:
    """Take out what exporters note for their own developers: a third of a small file, with paths of this machine.

    Where each node came from (`network.4`) stays, so that a layer can be named.
    """
    graph = model.graph
    for node in graph.node:
        node.doc_string = ""
        kept = [entry for entry in node.metadata_props if entry.key == SCOPES]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    del graph.value_info[:]
    del graph.metadata_props[:]


def trace(
    module: nn.Module, example: NDArray[Any], schema: Schema, opset: int, code: str | None = None
) -> onnx.ModelProto:
    """The module as an ONNX model with one input, named as the feature, and one output, `probabilities`."""
    records = torch.from_numpy(np.concatenate([example, example])[:2].copy())
    with quiet():
        try:
            program = torch.onnx.export(
                module,
                (records,),
                input_names=[schema.feature.name],
                output_names=["probabilities"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            raise StageError(
                f"torch could not export the model: {reason(error, code)}",
                where="export",
                hint="ONNX has no form for that operator, or for a branch that depends on the rows' values",
            ) from error
    assert program is not None, "torch.onnx.export with dynamo=True returns a program"
    return program.model_proto


def reason(error: BaseException, code: str | None) -> str:
    """What is below the exporter's own words, which only say in which step it failed; the first line of it."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = "" if code is None else own_line(error, code)
    return f"{str(error).strip().splitlines()[0]}{line}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's chatter off the screen; its failures are exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def add_label(model: onnx.ModelProto, classes: tuple[str, ...]) -> None:
    """Add the output `label`, the name of the most probable class, so that no caller needs a table of names."""
    graph = model.graph
    encoded: Any = [name.encode() for name in classes]
    names = helper.make_tensor("class_names", TensorProto.STRING, [len(classes)], encoded)
    graph.initializer.append(names)
    graph.node.append(helper.make_node("ArgMax", ["probabilities"], ["label_index"], axis=1, keepdims=0))
    graph.node.append(helper.make_node("Gather", ["class_names", "label_index"], ["label"], axis=0))
    batch = graph.output[0].type.tensor_type.shape.dim[0].dim_param or "batch"
    graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.STRING, [batch]))


def session_outputs(path: Path, feature: str, records: NDArray[Any]) -> tuple[list[str], NDArray[np.float32]]:
    """Labels and probabilities by ONNX Runtime on the CPU, for raw records `[n, *shape]`."""
    session = open_session(path, threads=1)
    labels, probabilities = session.run(["label", "probabilities"], {feature: records})
    return [str(label) for label in labels], probabilities
