"""One rung of a ladder: a pass, the ONNX file that it leads to, and what that is worth beside the uncompressed one.

The first rung has no pass: it is the uncompressed model.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayml import __version__
from rayml.ml.checkpoint import WEIGHTS_FILE, save_weights
from rayml.ml.divergence import first_divergence, where_it_begins
from rayml.ml.onnx_check import check_file
from rayml.ml.onnx_export import session_outputs, write_onnx
from rayml.ml.shards import load_schema
from rayml.ml.trained import MODEL_FILE, compare, frozen_sample, load_trained, torch_probabilities
from rayml.plan.plan import Resources, Step
from rayml.stages.api import Context, Inputs, Outcome
from rayml.stages.compress.api import ONNX_FILE, Candidate, Made, Work
from rayml.stages.compress.inner import InnerTraining
from rayml.stages.compress.measuring.row import measure_row
from rayml.stages.compress.passes.table import load_pass

UNCOMPRESSED = "uncompressed"
DIVERGED = 0.05
"""A relative error of a layer's output from which on it is named; int8 of one layer is at 0.01 to 0.03."""


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Leaves `model.onnx`, and the torch network that it came from as `model.json` and `model.safetensors`."""
    config = step.config
    torch.set_num_threads(step.resources.cpus_per_worker)
    hop = None
    if config["pass"]["kind"] == UNCOMPRESSED:
        made = Made()
        keep_network(Candidate(inputs["train"].path), context.out, made)
        hop = write_file(step, inputs, context)
        original = parent = Candidate(context.out)
    else:
        original, parent = (Candidate(inputs[name].path) for name in ("original", "parent"))
        made = load_pass(config["pass"]["kind"])(work_of(step, inputs, context))
        keep_network(parent, context.out, made)
        if not (context.out / ONNX_FILE).exists():
            hop = write_file(step, inputs, context)
    schema = load_schema(inputs["data"].path)
    check_file(context.out / ONNX_FILE)
    context.emit("note", text=f"measuring {config['pass']['kind']} beside the uncompressed model")
    row = measure_row(
        context.out / ONNX_FILE,
        original.onnx,
        schema,
        inputs["data"].path,
        seed=config["seed"],
        threads=step.resources.cpus_per_worker,
    )
    facts = {"row": row, "pass": made.facts, "masked": made.masked, "hop": hop}
    if made.config is None and config["pass"]["kind"] != UNCOMPRESSED:
        _, records = frozen_sample(inputs["data"].path, config["samples"])
        facts["diverges"] = first_divergence(parent.onnx, context.out / ONNX_FILE, records, DIVERGED)
    return Outcome(headline(row), facts)


def work_of(step: Step, inputs: Inputs, context: Context) -> Work:
    """What the pass is given."""
    config = step.config
    return Work(
        config=config["pass"],
        seed=config["seed"],
        schema=load_schema(inputs["data"].path),
        data=inputs["data"].path,
        code=context.plan.code,
        original=Candidate(inputs["original"].path),
        parent=Candidate(inputs["parent"].path),
        out=context.out,
        threads=step.resources.cpus_per_worker,
        train=training_of(step, inputs, context) if "train" in config else no_training,
        note=lambda text: context.emit("note", text=text),
    )


def training_of(step: Step, inputs: Inputs, context: Context) -> InnerTraining:
    """What trains the network that the pass makes."""
    return InnerTraining(
        template=step.config["train"],
        policy=step.policy["train"],
        code=step.config["train_code"],
        resources=Resources.model_validate(step.policy["resources"]),
        blocks=step.config["blocks"],
        data=inputs["data"],
        original=inputs["original"],
        teachers=step.policy["teachers"],
        teacher_code=step.code,
        context=context,
    )


def no_training(model: dict[str, Any], start: object, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Stands where a pass says that it does not train."""
    raise AssertionError("only a pass with a finetune section trains")


def keep_network(before: Candidate, out: Path, made: Made) -> None:
    """The torch form of the candidate: the changed network, or the one before."""
    if made.config is None:
        shutil.copyfile(before.folder / MODEL_FILE, out / MODEL_FILE)
    else:
        description = json.loads((before.folder / MODEL_FILE).read_bytes())
        (out / MODEL_FILE).write_text(json.dumps({**description, "model": made.config}))
    if made.weights is None:
        shutil.copyfile(before.folder / WEIGHTS_FILE, out / WEIGHTS_FILE)
    else:
        save_weights(out, {name: tensor.contiguous() for name, tensor in made.weights.items()})


def write_file(step: Step, inputs: Inputs, context: Context) -> dict[str, Any]:
    """Export the torch form to ONNX. Returns how far the file's answers on the frozen rows are from the network's."""
    schema = load_schema(inputs["data"].path)
    ids, records = frozen_sample(inputs["data"].path, step.config["samples"])
    opset = step.config["opset"]
    metadata = {"rayml": __version__, "model": step.config["name"], "run": context.run, "opset": opset}
    metadata |= {"version": step.key[:12], "schema": schema.model_dump(mode="json")}
    model = load_trained(context.out, schema, context.plan.code)
    path = context.out / ONNX_FILE
    write_onnx(model, records[:2], schema, opset, metadata, path, context.plan.code)
    labels, answers = session_outputs(path, schema.feature.name, records)
    found, worst = compare(ids, torch_probabilities(model, records), answers, labels, schema.classes)
    return {**found, "worst": {**worst, **where_it_begins(found, model, path, records)}}


def headline(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a row that tables and searches read."""
    single = row["latency"]["1x1"]
    return {
        "size_bytes": float(row["bytes"]),
        "parameters": float(row["parameters"]),
        "accuracy": row["accuracy"]["value"],
        "metric_drop": row["accuracy"]["drop"],
        "agreement": row["agreement"]["value"],
        "latency_p50_ms": single["p50_ms"],
        "latency_p95_ms": single["p95_ms"],
        "speedup": single["ratio"],
        "ram_bytes": float(row["ram"]),
    }
