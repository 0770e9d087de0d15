"""int8 for weights and activations, with ranges from calibration (QDQ, by onnxruntime.quantization)."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from rayml.stages.compress.api import Work
from rayml.stages.compress.quantization.calibration import Reader, rows_of
from rayml.stages.compress.quantization.graphs import HEAVY, load_named, matching, need, node_facts, save_like
from rayml.stages.compress.quantization.processor import processor
from rayml.stages.compress.quantization.sensitivity import Judge, restore
from rayml.stages.compress.quantization.tables import in_8_bits, lookups

BESIDE = ("Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Relu", "ReduceMean")
"""What stays in int8 between two heavy nodes, so that no value is turned back and forth."""
SUMS = ("MatMul", "Gemm")
"""What hands on its sums as floats: that costs int8 kernels nothing, and a transformer loses its answers otherwise."""


@dataclass(frozen=True)
class Recipe:
    """One model's quantization: only what is kept in float differs from call to call."""

    model: onnx.ModelProto
    parent: onnx.ModelProto
    nodes: tuple[str, ...]
    reader: Reader
    settings: dict[str, Any]
    reduce_range: bool
    ranges: Path
    """Where the ranges are kept after the first call."""

    def write(self, path: Path, keep: tuple[str, ...] = ()) -> None:
        """Quantize all nodes but those of `keep`."""
        from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

        calibration = self.settings["calibration"]
        method = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}[calibration["method"]]
        self.reader.at = 0
        copied = onnx.ModelProto()
        copied.CopyFrom(self.model)
        options: dict[str, Any] = {"OpTypesToExcludeOutputQuantization": list(SUMS)}
        if method == "Percentile":
            options["CalibPercentile"] = calibration["percentile"]
        with quiet_root():
            quantize_static(
                copied,
                path,
                self.reader,
                op_types_to_quantize=[*HEAVY, *BESIDE],
                nodes_to_quantize=[name for name in self.nodes if name not in keep],
                per_channel=self.settings["per_channel"],
                reduce_range=self.reduce_range,
                activation_type=QuantType.QInt8 if self.settings["activations"] == "int8" else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=getattr(CalibrationMethod, method),
                calibration_cache_path=self.ranges,
                extra_options=options,
            )
        made = onnx.load(path)
        in_8_bits(made, keep)
        save_like(made, self.parent, path)


@contextlib.contextmanager
def quiet_root() -> Iterator[None]:
    """onnxruntime's tools log through the root logger, and say at length what a user did not ask for."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        root.setLevel(level)


def quantize(work: Work, source: Path) -> dict[str, Any]:
    """Write `out/model.onnx` from the float model `source`; returns the facts."""
    config, parent, machine = work.config, load_named(source), processor()
    need(parent, HEAVY, config["scheme"])
    rows = rows_of(work)
    reduced = not machine["vnni"] if config["reduce_range"] == "auto" else bool(config["reduce_range"])
    with tempfile.TemporaryDirectory() as folder:
        model = folded(parent, Path(folder))
        recipe = Recipe(
            model,
            parent,
            (*(node.name for node in model.graph.node if quantizable(node, model)), *lookups(model)),
            Reader(work.schema.feature.name, rows.calibration),
            config,
            reduced,
            Path(folder) / "ranges.json",
        )
        path = work.out / "model.onnx"
        judge = Judge(source, work.schema.feature.name, rows.judged, work.threads)
        if config["keep"] == "auto":
            kept = restore(recipe.write, path, heavy_of(recipe), recipe.nodes, judge, work.note)
        else:
            kept = dict.fromkeys(matching(config["keep"], list(recipe.nodes)))
            recipe.write(path, tuple(kept))
    agreement, difference = judge(path)
    return {
        "processor": machine,
        "reduce_range": reduced,
        "calibration": {"method": config["calibration"]["method"], "rows": len(rows.calibration)},
        "judged": {"rows": len(rows.judged), "apart": rows.apart, "agreement": agreement, "difference": difference},
        "kept": kept,
        **node_facts(path),
    }


def folded(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model with batch norms in the convolutions before them; the model itself where it has none."""
    if not any(node.op_type == "BatchNormalization" for node in model.graph.node):
        return model
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnx.save_model(model, folder / "raw.onnx")
    quant_pre_process(folder / "raw.onnx", folder / "folded.onnx", skip_symbolic_shape=True)
    return load_named(folder / "folded.onnx")


def quantizable(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Heavy nodes with weights, and those beside them that do not work with a constant, as the scale of a norm does."""
    constants = {each.name for each in model.graph.initializer}
    if node.op_type in HEAVY:
        return any(name in constants for name in node.input)
    if node.op_type == "Add":
        return not any(name in constants for name in node.input)
    return node.op_type in BESIDE


def heavy_of(recipe: Recipe) -> list[str]:
    """Names of the nodes that are measured one by one."""
    names = {node.name for node in recipe.model.graph.node if node.op_type in HEAVY}
    return [name for name in recipe.nodes if name in names]
