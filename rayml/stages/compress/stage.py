"""The compress stage, on the driver: walk the ladder, keep what brings something, and leave the candidate that wins."""

from __future__ import annotations

import json
import shutil
from typing import Any

from rayml.artifacts.store import Artifact
from rayml.ml.checkpoint import WEIGHTS_FILE
from rayml.ml.trained import MODEL_FILE
from rayml.plan.plan import Step, make_step
from rayml.stages.api import Context, Inputs, Outcome
from rayml.stages.compress import ladder
from rayml.stages.compress.api import ONNX_FILE
from rayml.stages.compress.inner import execute, keys_of
from rayml.stages.compress.rung import UNCOMPRESSED, headline

COMPRESS_FILE = "compress.json"
SHARED = ("name", "seed", "opset")
TRAINING = ("train", "train_code", "blocks")
SAMPLES = 64


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Leaves the chosen candidate's files, and `compress.json` with a row for each rung.

    Raises:
        GateError: no candidate is inside the budget.
    """
    original = make_rung(step, {"kind": UNCOMPRESSED}, {name: inputs[name] for name in ("data", "train")}, context)
    candidates = [(UNCOMPRESSED, original)]
    rungs: list[dict[str, Any]] = [describe(UNCOMPRESSED, original, None)]
    tell(context, step, 0, UNCOMPRESSED, status="kept", why="what the others are measured against", rung=original)
    parent = original
    for number, each in enumerate(step.config["ladder"], start=1):
        name = f"{number}. {each['kind']}"
        tell(context, step, number, each["kind"], status="starts")
        rung = make_rung(step, each, {"data": inputs["data"], "original": original, "parent": parent}, context)
        verdict = ladder.judge(
            row_of(rung),
            row_of(parent),
            masked=rung.manifest.facts["masked"],
            min_gain=step.config["min_gain"],
        )
        tell(context, step, number, each["kind"], status=verdict.status, why=verdict.why, rung=rung)
        rungs.append(describe(name, rung, verdict))
        if verdict.status == "kept":
            candidates.append((name, rung))
            parent = rung
    budget, prefer = step.config["budget"], step.config["prefer"]
    place = ladder.choose([(name, row_of(rung)) for name, rung in candidates], budget, prefer)
    name, chosen = candidates[place]
    for file in (ONNX_FILE, MODEL_FILE, WEIGHTS_FILE):
        shutil.copyfile(chosen.path / file, context.out / file)
    document = {"rungs": rungs, "chosen": name, "budget": budget, "prefer": prefer, "min_gain": step.config["min_gain"]}
    (context.out / COMPRESS_FILE).write_text(json.dumps(document, indent=1))
    return Outcome(summarize(row_of(chosen), row_of(original)), {"chosen": name, "rung": chosen.manifest.key})


def tell(
    context: Context, step: Step, number: int, name: str, *, status: str, why: str = "", rung: Artifact | None = None
) -> None:
    """Let those who follow the run know of a rung: that it starts, or what became of it."""
    numbers = {} if rung is None else headline(row_of(rung))
    context.emit("rung", number=number, of=len(step.config["ladder"]), name=name, status=status, why=why, **numbers)


def make_rung(step: Step, each: dict[str, Any], inputs: dict[str, Artifact], context: Context) -> Artifact:
    """The candidate of a pass, found or made."""
    config = {name: step.config[name] for name in SHARED} | {"pass": each, "samples": SAMPLES}
    if "finetune" in each:
        config |= {name: step.config[name] for name in TRAINING}
    policy = {"train": step.policy["train"], "teachers": step.policy["teachers"]}
    policy["resources"] = step.resources.model_dump()
    cpus = step.resources.workers * step.resources.cpus_per_worker
    resources = step.resources.model_copy(update={"workers": 1, "cpus_per_worker": cpus})
    return execute(context, make_step("rung", config, keys_of(inputs), step.code, policy, resources), inputs)


def row_of(rung: Artifact) -> dict[str, Any]:
    """What was measured of a candidate."""
    row: dict[str, Any] = rung.manifest.facts["row"]
    return row


def describe(name: str, rung: Artifact, verdict: ladder.Verdict | None) -> dict[str, Any]:
    """A rung as compress.json has it."""
    facts = rung.manifest.facts
    verdict = verdict or ladder.Verdict("kept", "what the others are measured against", 0.0, 0.0)
    return {
        "name": name,
        "key": rung.manifest.key,
        "config": rung.manifest.config["pass"],
        "seconds": rung.manifest.seconds,
        **ladder.to_json(verdict),
        "row": facts["row"],
        "pass": facts["pass"],
        "diverges": facts.get("diverges"),
    }


def summarize(row: dict[str, Any], original: dict[str, Any]) -> dict[str, float]:
    """The chosen candidate beside the uncompressed model."""
    return headline(row) | {
        "times_smaller": original["bytes"] / row["bytes"],
        "times_faster": row["latency"]["1x1"]["ratio"],
        "uncompressed_accuracy": original["accuracy"]["value"],
        "uncompressed_bytes": float(original["bytes"]),
    }
