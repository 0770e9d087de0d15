"""The evaluate stage: the exported model on rows that it has not seen, and how sure the numbers are.

Leaves `evaluation.json` (metrics with intervals, confusion, per class, the rows worth looking at) and
`predictions.parquet` (every row). Gates are judged by the runner.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayml.ml.metrics import Evaluation, evaluate
from rayml.ml.schema import Schema
from rayml.ml.shards import ShardSet, load_schema
from rayml.plan.plan import Step
from rayml.stages.api import Context, Inputs, Outcome
from rayml.stages.evaluate.predict import Predictions, predict
from rayml.stages.evaluate.samples import pick_samples

EVALUATION_FILE = "evaluation.json"
PREDICTIONS_FILE = "predictions.parquet"
MODEL_FILE = "model.onnx"


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Predict every row of a split with the exported file, score the answers, and keep the telling ones."""
    data, split = inputs["data"].path, step.config["split"]
    schema = load_schema(data)
    rows = ShardSet.open(data, split)
    resources = step.resources
    predictions = predict(
        inputs["export"].path / MODEL_FILE,
        schema,
        rows,
        threads=resources.workers * resources.cpus_per_worker,
        note=lambda text: context.emit("note", text=text),
    )
    evaluation = evaluate(
        rows.labels,
        predictions.probabilities,
        predicted=predictions.classes,
        resamples=step.config["bootstrap"],
        seed=step.config["seed"],
    )
    document = describe(evaluation, schema, split, rows, predictions)
    (context.out / EVALUATION_FILE).write_text(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False))
    write_predictions(context.out / PREDICTIONS_FILE, schema, rows, predictions)
    return Outcome(
        {name: estimate.value for name, estimate in evaluation.metrics.items()},
        {
            "split": split,
            "rows": len(rows),
            "intervals": {name: [estimate.low, estimate.high] for name, estimate in evaluation.metrics.items()},
            "absent": [schema.classes[index] for index in evaluation.absent],
        },
    )


def describe(
    evaluation: Evaluation, schema: Schema, split: str, rows: ShardSet, predictions: Predictions
) -> dict[str, Any]:
    """The JSON document that the report draws. Labels and predictions in it are names of classes."""
    scores = zip(schema.classes, evaluation.per_class, strict=True)
    return {
        "split": split,
        "rows": len(rows),
        "classes": list(schema.classes),
        "absent": [schema.classes[index] for index in evaluation.absent],
        "metrics": {name: asdict(estimate) for name, estimate in evaluation.metrics.items()},
        "per_class": [{"class": name, **asdict(score)} for name, score in scores],
        "confusion": evaluation.confusion.tolist(),
        "samples": pick_samples(schema, rows, predictions),
    }


def write_predictions(path: Path, schema: Schema, rows: ShardSet, predictions: Predictions) -> None:
    """One row per sample: `sample_id int64`, `label` and `predicted` as class names, `probabilities [classes] float32`.

    The names that the probabilities belong to are in the metadata of the file, under `classes`.
    """
    names = pa.array(schema.classes)
    probabilities = pa.array(predictions.probabilities.ravel())
    table = pa.table(
        {
            "sample_id": rows.sample_ids,
            "label": names.take(pa.array(rows.labels)),
            "predicted": names.take(pa.array(predictions.classes)),
            "probabilities": pa.FixedSizeListArray.from_arrays(probabilities, len(schema.classes)),
        }
    )
    classes = json.dumps(schema.classes, ensure_ascii=False)
    pq.write_table(table.replace_schema_metadata({"classes": classes}), path, compression="zstd")
