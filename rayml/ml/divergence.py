"""The first layer at which a model that was changed no longer computes what it did before."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from torch import Tensor, nn

from rayml.ml.models import Classifier

Values = dict[str, NDArray[Any]]

SUSPICIOUS = 1e-5
"""A difference of probabilities from which on it is looked up where it begins. Sums in another order are below it."""
ROWS = 4
"""Answered at once: all activations of them are held. 64 rows of a ResNet-18 would be 2 GB."""
DEQUANTIZED = "_DequantizeLinear_Output"
UNQUANTIZED = "_QuantizeLinear_Input"
"""How onnxruntime.quantization names a tensor after its rounding, and a graph output before it."""
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch.onnx writes the modules that a node stands in, from the outermost to the node itself."""
WRAPPER = "model."
"""The classifier's name in the module that rayml.ml.onnx_export exports."""
FLOATS = (np.float16, np.float32, np.float64)


@dataclass
class Error:
    """The relative error of a tensor, summed up over parts of the rows."""

    difference: float = 0.0
    """Sum of the squares."""
    size: float = 0.0

    def add(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        expected, found = before.astype(np.float64), after.astype(np.float64)
        # A number on one side only is as far away as can be; the same infinity (a mask) on both is no difference.
        differences = np.where(expected == found, 0.0, np.abs(expected - np.where(expected == found, 0, found)))
        self.difference += float(np.square(np.nan_to_num(differences, nan=np.inf)).sum())
        self.size += float(np.square(expected[np.isfinite(expected)]).sum())

    @property
    def value(self) -> float:
        """||before - after|| / ||before||."""
        if self.difference == 0:
            return 0.0
        return float(np.sqrt(self.difference / self.size)) if self.size else float("inf")


@dataclass(frozen=True)
class Layer:
    """What two models are compared at."""

    name: str
    op: str
    before: str
    """Name of the tensor before the change."""
    after: str
    error: Error = field(default_factory=Error)


def first_divergence(before: Path, after: Path, records: NDArray[Any], tolerance: float) -> dict[str, Any] | None:
    """The first node, in the order of the graph before, whose output is off by more than a tolerance; None if none is.

    Both graphs run as they are written, without ONNX Runtime's own fusions. Tensors are matched by name, those that
    were quantized after their rounding; else by place among the nodes of the same operator, if both graphs have as
    many. Tensors of different shapes are not compared.

    Args:
        before, after: ONNX files with the same input.
        records: raw records `[n, *shape]`.
        tolerance: ||before - after|| / ||before|| over all rows, from which on a layer is named.

    Returns:
        `layer` the node's name, `op`, `tensor`, `error`, `compared` the number of tensors that were.
    """
    models = (onnx.load(before), onnx.load(after))
    layers = match(models[0].graph, models[1].graph)
    with tempfile.TemporaryDirectory() as folder:
        sessions = [
            open_exposed(model, sorted({getattr(layer, side) for layer in layers}), Path(folder) / f"{side}.onnx")
            for model, side in zip(models, ("before", "after"), strict=True)
        ]
        for part in parts_of(records):
            add_part(layers, run(sessions[0], part), run(sessions[1], part))
    return first_beyond(layers, tolerance)


def first_divergence_torch(
    model: Classifier, onnx_file: Path, records: NDArray[Any], tolerance: float = 1e-3
) -> dict[str, Any] | None:
    """The first module of torch whose output the ONNX file does not have; None if none is off by more than a tolerance.

    Compares modules without children that are called once, with the last node that torch.onnx says stands in them. A
    batch norm that was folded into the layer before it is compared with that layer.

    Args:
        model: in evaluation mode, on the CPU.
        records: raw records `[n, *shape]`.

    Returns:
        `layer` the module's name, such as `network.4`, `op` its class, and `tensor`, `error`, `compared`.
    """
    file = onnx.load(onnx_file)
    layers = match_modules(model, records[:2], file.graph)
    with tempfile.TemporaryDirectory() as folder:
        names = sorted({layer.after for layer in layers})
        session = open_exposed(file, names, Path(folder) / "after.onnx")
        for part in parts_of(records):
            outputs = {name: values for name, _, values in module_outputs(model, part)}
            add_part(layers, outputs, run(session, part))
    return first_beyond(layers, tolerance)


def where_it_begins(found: dict[str, float], model: Classifier, path: Path, records: NDArray[Any]) -> dict[str, str]:
    """`{"diverges_at": layer}` where the answers that were compared are suspicious; empty where they are not.

    Args:
        found: the metrics of rayml.ml.trained.compare.
    """
    if not found["parity_label_mismatches"] and found["parity_max_abs_diff"] <= SUSPICIOUS:
        return {}
    layer = first_divergence_torch(model, path, records)
    return {"diverges_at": "after the last layer" if layer is None else layer["layer"]}


def match(before: onnx.GraphProto, after: onnx.GraphProto) -> list[Layer]:
    """The tensors of both graphs that stand for the same, in the order of the first."""
    known, present = ({name for node in graph.node for name in node.output} for graph in (before, after))
    counts = [Counter(kind_of(node) for node in graph.node) for graph in (before, after)]
    by_place = dict(numbered(after))
    layers = []
    for key, node in numbered(before):
        if node.op_type in ("Constant", "Shape"):
            continue
        twin = by_place.get(key)
        as_many = counts[0][kind_of(node)] == counts[1][kind_of(node)]
        for place, name in enumerate(node.output):
            names = (f"{name}{DEQUANTIZED}", name, f"{name}{UNQUANTIZED}")
            found = next((each for each in names if each in present), None)
            if found is None and as_many and twin is not None and place < len(twin.output):
                # A twin that has another tensor's name is that one's: nodes were fused, and the places moved.
                found = twin.output[place] if twin.output[place] not in known else None
            if name and found:
                layers.append(Layer(node.name or f"{node.op_type} of {name}", node.op_type, name, found))
    return layers


def numbered(graph: onnx.GraphProto) -> Iterator[tuple[tuple[str, str, int], NodeProto]]:
    """Nodes by operator and place among those of the same operator, from 1."""
    places: Counter[tuple[str, str]] = Counter()
    for node in graph.node:
        places[kind_of(node)] += 1
        yield (*kind_of(node), places[kind_of(node)]), node


def kind_of(node: NodeProto) -> tuple[str, str]:
    """Domain and operator."""
    return node.domain, node.op_type


def match_modules(model: Classifier, records: NDArray[Any], graph: onnx.GraphProto) -> list[Layer]:
    """The modules that have a tensor in the graph, in the order in which they are called."""
    last = {module_of(node): node.output[0] for node in graph.node}
    called = [(name, module) for name, module, _ in module_outputs(model, records)]
    times = Counter(name for name, _ in called)
    layers = []
    for (name, module), (then, follower) in zip(called, [*called[1:], ("", nn.Identity())], strict=True):
        if times[name] > 1 or name not in last:
            continue
        folded = isinstance(follower, nn.modules.batchnorm._BatchNorm) and then not in last
        layers.append(Layer(name, type(module).__name__, then if folded else name, last[name]))
    return layers


def module_of(node: NodeProto) -> str:
    """Name of the innermost module that a node stands in; "" where the file does not say."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    modules: list[str] = json.loads(scopes.replace("'", '"'))[:-1]
    return modules[-1].removeprefix(WRAPPER) if modules else ""


@torch.no_grad()
def module_outputs(model: Classifier, records: NDArray[Any]) -> list[tuple[str, nn.Module, NDArray[Any]]]:
    """Name, module and output of each call of a module without children, in order."""
    found: list[tuple[str, nn.Module, NDArray[Any]]] = []
    hooks = []
    for name, module in model.named_modules():
        if any(True for _ in module.children()):
            continue

        def keep(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
            if isinstance(output, Tensor):
                # A later module may write into the same memory, as ReLU(inplace=True) does.
                found.append((name, module, output.numpy().copy()))

        hooks.append(module.register_forward_hook(keep))
    try:
        model(torch.from_numpy(records.copy()))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def open_exposed(model: onnx.ModelProto, names: list[str], path: Path) -> Any:
    """A session of a copy of the model, written to a path, whose outputs are the named tensors."""
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    onnx.save_model(copy, path, save_as_external_data=copy.ByteSize() > 2**30, location=f"{path.name}.data")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def parts_of(records: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """So few records at a time that their activations fit."""
    for start in range(0, len(records), ROWS):
        yield records[start : start + ROWS]


def run(session: Any, records: NDArray[Any]) -> Values:
    """All outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: records}), strict=True))


def add_part(layers: list[Layer], before: Values, after: Values) -> None:
    """Add what some rows show to the errors of the layers that can be compared."""
    for layer in layers:
        expected, found = before[layer.before], after[layer.after]
        is_float = all(np.asarray(values).dtype in FLOATS for values in (expected, found))
        if is_float and expected.shape == found.shape and expected.size:
            layer.error.add(expected, found)


def first_beyond(layers: list[Layer], tolerance: float) -> dict[str, Any] | None:
    """The first layer whose error is larger than the tolerance."""
    compared = [layer for layer in layers if layer.error.size or layer.error.difference]
    for layer in compared:
        if not layer.error.value <= tolerance:
            return {
                "layer": layer.name,
                "op": layer.op,
                "tensor": layer.before,
                "error": layer.error.value,
                "compared": len(compared),
            }
    return None
