"""int8 ranges at each call, and blocks of weights in 8 or 4 bits: matrices only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from rayml.stages.compress.api import Work
from rayml.stages.compress.quantization.graphs import heavy as heavy_nodes
from rayml.stages.compress.quantization.graphs import load_named, matching, need, node_facts, save_like
from rayml.stages.compress.quantization.tables import in_8_bits, lookups

MATRICES = ("Gemm", "MatMul")


def kept(work: Work, model: onnx.ModelProto) -> list[str]:
    """Names of matrices that stay float; `auto` keeps none, since no range is guessed."""
    if work.config["keep"] == "auto":
        return []
    return matching(work.config["keep"], [*heavy_nodes(model, MATRICES), *lookups(model)])


def dynamic(work: Work) -> dict[str, Any]:
    """int8 matrices whose inputs get a range at each call. Convolutions stay float: so they are 3x to 7x slower."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from rayml.stages.compress.quantization.processor import processor

    parent, machine, path = load_named(work.parent.onnx), processor(), work.out / "model.onnx"
    need(parent, MATRICES, "int8_dynamic")
    reduced = not machine["vnni"] if work.config["reduce_range"] == "auto" else bool(work.config["reduce_range"])
    copied = onnx.ModelProto()
    copied.CopyFrom(parent)
    names = kept(work, parent)
    quantize_dynamic(
        copied,
        path,
        op_types_to_quantize=list(MATRICES),
        nodes_to_exclude=names,
        per_channel=work.config["per_channel"],
        reduce_range=reduced,
        weight_type=QuantType.QInt8,
    )
    made = onnx.load(path)
    in_8_bits(made, names)
    save_like(made, parent, path)
    return {"processor": machine, "reduce_range": reduced, "kept": dict.fromkeys(names), **node_facts(path)}


def blocks(work: Work, bits: int) -> dict[str, Any]:
    """Weights of matrices in blocks that share a scale; sums are float."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    parent, path = load_named(work.parent.onnx), work.out / "model.onnx"
    need(parent, MATRICES, work.config["scheme"])
    names = kept(work, parent)
    held = ONNXModel(split(parent, names))
    quantizer = MatMulNBitsQuantizer(
        held.model, bits=bits, block_size=work.config["block"], is_symmetric=True, nodes_to_exclude=names
    )
    quantizer.process()
    made = quantizer.model.model
    in_8_bits(made, names)
    save_like(made, parent, Path(path))
    return {"bits": bits, "block": work.config["block"], "kept": dict.fromkeys(names), **node_facts(path)}


def split(parent: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy whose Gemms, but for those of `names`, are a MatMul and an Add, which alone has a form in blocks."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = onnx.ModelProto()
    model.CopyFrom(parent)
    held = ONNXModel(model)
    aside = [node for node in model.graph.node if node.op_type == "Gemm" and node.name in names]
    for node in aside:
        node.op_type = "Aside"
    held.replace_gemm_with_matmul()
    for node in held.model.graph.node:
        if node.op_type == "Aside":
            node.op_type = "Gemm"
    rewritten: onnx.ModelProto = held.model
    return rewritten
