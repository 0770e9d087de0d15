"""The compress stage, on the driver: walk the ladder, keep what brings something, and leave the candidate that wins."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import Any

from rayml.artifacts.manifest import Artifact
from rayml.errors import GateError
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


@dataclass(frozen=True)
class Rung:
    """A candidate, measured and judged."""

    name: str
    artifact: Artifact
    row: ladder.Row
    verdict: ladder.Verdict


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Leaves the chosen candidate's files, and `compress.json` with a row for each rung.

    Raises:
        GateError: no candidate is inside the budget.
    """
    rungs = climb(step, inputs, context)
    candidates = [rung for rung in rungs if rung.verdict.status == "kept"]
    budget, prefer = step.config["budget"], step.config["prefer"]
    chosen = candidates[ladder.choose([(rung.name, rung.row) for rung in candidates], budget, prefer)]
    for file in (ONNX_FILE, MODEL_FILE, WEIGHTS_FILE):
        shutil.copyfile(chosen.artifact.path / file, context.out / file)
    document = {
        "rungs": [describe(rung) for rung in rungs],
        "chosen": chosen.name,
        "budget": budget,
        "prefer": prefer,
        "min_gain": step.config["min_gain"],
    }
    (context.out / COMPRESS_FILE).write_text(json.dumps(document, indent=1))
    facts = {"chosen": chosen.name, "rung": chosen.artifact.manifest.key}
    return Outcome(summarize(chosen.row, rungs[0].row), facts)


def climb(step: Step, inputs: Inputs, context: Context) -> list[Rung]:
    """Make and judge each rung from the last one that was kept; the uncompressed model is the first."""
    passes = step.config["ladder"]
    artifact = make_rung(step, {"kind": UNCOMPRESSED}, {name: inputs[name] for name in ("data", "train")}, context)
    verdict = ladder.Verdict("kept", "what the others are measured against", 0.0, 0.0)
    original = parent = Rung(UNCOMPRESSED, artifact, artifact.manifest.facts["row"], verdict)
    rungs = [original]
    tell(context, 0, len(passes), UNCOMPRESSED, original)
    refuse_another_answer(original, step.policy["tolerance"])
    for number, each in enumerate(passes, start=1):
        context.emit("rung", number=number, of=len(passes), name=each["kind"], status="starts")
        made_from = {"data": inputs["data"], "original": original.artifact, "parent": parent.artifact}
        artifact = make_rung(step, each, made_from, context)
        row = ladder.on_one_clock(artifact.manifest.facts["row"], original.row)
        masked = artifact.manifest.facts["masked"]
        verdict = ladder.judge(row, parent.row, masked=masked, min_gain=step.config["min_gain"])
        rung = Rung(f"{number}. {each['kind']}", artifact, row, verdict)
        tell(context, number, len(passes), each["kind"], rung)
        refuse_another_answer(rung, step.policy["tolerance"])
        rungs.append(rung)
        if verdict.status == "kept":
            parent = rung
    return rungs


def refuse_another_answer(rung: Rung, tolerance: float) -> None:
    """GateError where the rung's file does not answer as the network that was exported to it."""
    hop = rung.artifact.manifest.facts["hop"]
    if hop is None or (hop["parity_max_abs_diff"] <= tolerance and not hop["parity_label_mismatches"]):
        return
    worst = [
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in hop["worst"].items()
    ]
    raise GateError(
        f"{rung.name}: the exported file is up to {hop['parity_max_abs_diff']:.6g} from the network that it was made "
        f"of, and {tolerance:g} is allowed; worst sample: {', '.join(worst)}",
        where="compress",
        hint=f"what was made is kept: {rung.artifact.path}",
    )


def tell(context: Context, number: int, of: int, name: str, rung: Rung) -> None:
    """Let those who follow the run know what became of a rung."""
    verdict = rung.verdict
    numbers = headline(rung.row)
    context.emit("rung", number=number, of=of, name=name, status=verdict.status, why=verdict.why, **numbers)


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


def describe(rung: Rung) -> dict[str, Any]:
    """A rung as compress.json has it."""
    manifest = rung.artifact.manifest
    return {
        "name": rung.name,
        "key": manifest.key,
        "config": manifest.config["pass"],
        "seconds": manifest.seconds,
        **ladder.to_json(rung.verdict),
        "row": rung.row,
        "pass": manifest.facts["pass"],
        "diverges": manifest.facts.get("diverges"),
    }


def summarize(row: dict[str, Any], original: dict[str, Any]) -> dict[str, float]:
    """The chosen candidate beside the uncompressed model."""
    return headline(row) | {
        "times_smaller": original["bytes"] / row["bytes"],
        "times_faster": row["latency"]["1x1"]["ratio"],
        "uncompressed_accuracy": original["accuracy"]["value"],
        "uncompressed_bytes": float(original["bytes"]),
    }
