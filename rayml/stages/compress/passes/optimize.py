"""`optimize`: ONNX Runtime's rewriting of the graph, kept in the file, and the session settings that are fastest."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rayml.errors import StageError
from rayml.ml.onnx_session import SESSION, Execution, first_line, open_session
from rayml.ml.shards import ShardSet
from rayml.stages.compress.api import Made, Work
from rayml.stages.compress.quantization.graphs import save_like

LEVELS = {"basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
ROUNDS, CALLS = 7, 20


def run(work: Work) -> Made:
    """Write `out/model.onnx`, rewritten. StageError where ONNX Runtime cannot rewrite it."""
    parent, path = onnx.load(work.parent.onnx), work.out / "model.onnx"
    wanted = has_attention(parent) if work.config["transformer"] == "auto" else work.config["transformer"]
    with tempfile.TemporaryDirectory() as folder:
        source, fused = work.parent.onnx, dict[str, int]()
        if wanted:
            source, fused = fuse(source, Path(folder) / "fused.onnx")
        rewrite(source, path, work.config["level"])
    save_like(onnx.load(path), parent, path)
    facts: dict[str, Any] = {
        "level": work.config["level"],
        "bound_to_this_machine": work.config["level"] == "all",
        "transformer": bool(wanted),
        "fused": fused,
        "nodes": {"before": len(parent.graph.node), "after": len(onnx.load(path).graph.node)},
    }
    if work.config["session"]:
        facts["session"] = fastest(work, path)
        note_session(path, facts["session"])
    return Made(facts=facts)


def has_attention(model: onnx.ModelProto) -> bool:
    """Whether a softmax follows a product of matrices, with at most a scale or a mask between, and one follows it."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    uses = {name: node for node in model.graph.node for name in node.input}
    return any(
        node.op_type == "Softmax" and after_product(node, made_by) and leads_to(uses.get(node.output[0]))
        for node in model.graph.node
    )


def after_product(node: onnx.NodeProto, made_by: dict[str, onnx.NodeProto]) -> bool:
    """Whether a MatMul is before this node."""
    before = made_by.get(node.input[0])
    while before is not None and before.op_type in ("Mul", "Div", "Add"):
        before = made_by.get(before.input[0])
    return before is not None and before.op_type == "MatMul"


def leads_to(node: onnx.NodeProto | None) -> bool:
    """Whether the weights of an attention are used: the softmax of the answer is not followed by a product."""
    return node is not None and node.op_type == "MatMul"


def fuse(source: Path, path: Path) -> tuple[Path, dict[str, int]]:
    """onnxruntime's fusions for transformers, and how many of each there were."""
    from onnxruntime.transformers.optimizer import optimize_model

    model = optimize_model(str(source), model_type="vit", opt_level=0)
    model.save_model_to_file(str(path))
    return path, {name: count for name, count in model.get_fused_operator_statistics().items() if count}


def rewrite(source: Path, path: Path, level: str) -> None:
    """Let ONNX Runtime write the graph that it would run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[level])
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise StageError(
            f"ONNX Runtime cannot rewrite the model at level {level}: {first_line(error)}",
            where=str(source),
            hint="write level: basic, or leave the pass out",
        ) from error


def fastest(work: Work, path: Path) -> dict[str, Any]:
    """The settings with the smallest median latency of one row, in ms, measured in turns."""
    rows = ShardSet.open(work.data, "train").gather(np.zeros(1, dtype=np.int64))[0]
    executions: tuple[Execution, ...] = ("sequential", "parallel")
    choices = [
        (threads, arena, execution)
        for threads in sorted({1, work.threads})
        for arena in (True, False)
        for execution in executions
    ]
    # Idle threads of one session would take the processor from the session that is measured.
    sessions = {
        (threads, arena, execution): open_session(
            path, threads=threads, spinning=False, arena=arena, execution=execution
        )
        for threads, arena, execution in choices
    }
    times: dict[tuple[int, bool, Execution], list[float]] = {choice: [] for choice in choices}
    for _ in range(ROUNDS):
        for choice, session in sessions.items():
            for _ in range(CALLS):
                start = time.perf_counter()
                session.run(None, {work.schema.feature.name: rows})
                times[choice].append((time.perf_counter() - start) * 1000)
    medians = {choice: statistics.median(values) for choice, values in times.items()}
    threads, arena, execution = min(medians, key=lambda choice: medians[choice])
    measured = {f"threads={t} arena={a} {e}": round(ms, 4) for (t, a, e), ms in medians.items()}
    return {"threads": threads, "arena": arena, "execution": execution, "measured": measured}


def note_session(path: Path, session: dict[str, Any]) -> None:
    """Write the settings into the file."""
    model = onnx.load(path)
    kept = [entry for entry in model.metadata_props if entry.key != SESSION]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=SESSION, value=json.dumps(session, sort_keys=True))
    onnx.save_model(model, path)
