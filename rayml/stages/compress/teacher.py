"""The answers of a trained model to every row that a student will read, computed once and kept as an artifact.

Students of every ladder and trial with the same teacher and data find them again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayml.artifacts.bring import bring_weights
from rayml.errors import StageError
from rayml.ml.checkpoint import WEIGHTS_FILE
from rayml.ml.models import Classifier
from rayml.ml.schema import Schema
from rayml.ml.shards import ShardSet, load_schema
from rayml.ml.trained import BATCH, LOGITS_FILE, MODEL_FILE, load_trained
from rayml.plan.plan import Step
from rayml.spec.words import count
from rayml.stages.api import Context, Inputs, Outcome


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Leaves `logits.npy`, and with `keep_model` the network of the input `model` as a train step leaves it.

    Configuration: `splits` in the order in which the student's training reads them, `keep_model`, `seed`, and `others`:
    the digests of more teachers, whose folders the policy has.
    """
    data = inputs["data"].path
    schema = load_schema(data)
    rows = ShardSet.open(data, *step.config["splits"])
    device = torch.device("cuda" if step.resources.gpus_per_worker else "cpu")
    places = {digest: step.policy["teachers"][digest] for digest in step.config["others"]}
    others = [bring_weights(place, context.work / digest[:32]) for digest, place in places.items()]
    folders = [inputs["model"].path, *others]
    teachers = [load_teacher(folder, schema, context.plan.code).to(device) for folder in folders]
    context.emit("note", text=f"{count(len(teachers), 'teacher')} to answer {count(len(rows), 'row')}")
    correct = write_logits(context.out / LOGITS_FILE, teachers, rows, len(schema.classes), device)
    if step.config["keep_model"]:
        for file in (MODEL_FILE, WEIGHTS_FILE):
            shutil.copyfile(inputs["model"].path / file, context.out / file)
    metrics = {"rows": float(len(rows)), "teacher/accuracy": correct / len(rows)}
    return Outcome(metrics, {"splits": step.config["splits"], "teachers": len(teachers)})


def load_teacher(folder: Path, schema: Schema, code: str | None) -> Classifier:
    """The network of a teacher. StageError where it was trained for other classes or rows."""
    try:
        return load_trained(folder, schema, code)
    except RuntimeError as error:
        raise StageError(
            f"a teacher does not fit the rows and {len(schema.classes)} classes that the student is to learn:"
            f" {' '.join(str(error).split())[:200]}",
            where=str(folder),
            hint="name teachers that were trained on the same columns and classes",
        ) from error


@torch.no_grad()
def write_logits(path: Path, teachers: list[Classifier], rows: ShardSet, classes: int, device: torch.device) -> int:
    """Write `[rows, classes] float32` in canonical order; for how many rows the largest logit is the label's."""
    shape = (len(rows), classes)
    file: NDArray[np.float32] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    correct = 0
    for start in range(0, len(rows), BATCH):
        places = np.arange(start, min(start + BATCH, len(rows)))
        records, labels = rows.gather(places)
        logits = mean_logits([teacher(torch.from_numpy(records).to(device)).float() for teacher in teachers])
        answers = logits.cpu().numpy()
        if not np.isfinite(answers).all():
            raise StageError(
                f"the teacher answers with a number that is not finite, at or after row {start}",
                where=path.name,
                hint="look at the uncompressed model's own metrics: such a model teaches nothing",
            )
        file[places] = answers
        correct += int((answers.argmax(1) == labels).sum())
    del file  # written out
    return correct


def mean_logits(answers: list[Tensor]) -> Tensor:
    """One teacher's logits as they are; of several the logarithm of the mean probability. `[rows, classes]`."""
    if len(answers) == 1:
        return answers[0]
    logarithms = torch.stack([torch.log_softmax(each, dim=1) for each in answers])
    return torch.logsumexp(logarithms, dim=0) - float(np.log(len(answers)))
