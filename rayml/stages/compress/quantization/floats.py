"""Half the bits of every float: fp16 throughout, or weights in bf16."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import onnx
from onnx import TensorProto, helper, numpy_helper

from rayml.stages.compress.api import Work
from rayml.stages.compress.quantization.graphs import HEAVY, load_named, matching, save_like
from rayml.stages.compress.quantization.processor import processor

SMALL = 64
"""Constants with fewer numbers stay float32: they weigh nothing, and the normalization's are among them."""


def fp16(work: Work) -> dict[str, Any]:
    """All between the first heavy node and the softmax in float16; records and probabilities keep their types."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    parent = load_named(work.parent.onnx)
    model = load_named(work.parent.onnx)
    nodes = list(model.graph.node)
    first = next((i for i, node in enumerate(nodes) if node.op_type in HEAVY), 0)
    last = max((i for i, node in enumerate(nodes) if node.op_type in HEAVY), default=len(nodes))
    kept = kept_nodes(work, parent)
    float_nodes = [node.name for i, node in enumerate(nodes) if i < first or i > last or node.name in kept]
    model = convert_float_to_float16(model, keep_io_types=True, node_block_list=float_nodes)
    save_like(model, parent, work.out / "model.onnx")
    compute = "ONNX Runtime casts to float32 where it has no float16 kernel"
    return {"processor": processor(), "float_nodes": float_nodes, "kept": dict.fromkeys(kept), "compute": compute}


def bf16(work: Work) -> dict[str, Any]:
    """Weights in bfloat16 with a cast to float32 behind them: ONNX Runtime has no bfloat16 kernels for processors."""
    parent = load_named(work.parent.onnx)
    model = load_named(work.parent.onnx)
    kept = kept_nodes(work, parent)
    stay = {name for node in model.graph.node if node.name in kept for name in node.input}
    floats = [each for each in model.graph.initializer if each.data_type == TensorProto.FLOAT and each.name not in stay]
    stored = [each for each in floats if size(each) >= SMALL]
    casts = []
    for each in stored:
        name, values = each.name, numpy_helper.to_array(each).astype(ml_dtypes.bfloat16)
        each.CopyFrom(
            helper.make_tensor(f"{name}_bf16", TensorProto.BFLOAT16, list(each.dims), values.tobytes(), raw=True)
        )
        casts.append(helper.make_node("Cast", [each.name], [name], name=f"{name}_to_float", to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    save_like(model, parent, work.out / "model.onnx")
    compute = "float32; only the file is smaller"
    return {"processor": processor(), "stored": len(stored), "kept": dict.fromkeys(kept), "compute": compute}


def kept_nodes(work: Work, model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that stay float32; `auto` keeps none, since no range is guessed."""
    if work.config["keep"] == "auto":
        return []
    return matching(work.config["keep"], [node.name for node in model.graph.node])


def size(tensor: onnx.TensorProto) -> int:
    """Numbers in a tensor."""
    return int(numpy_helper.to_array(tensor).size)
