"""The data step: a source becomes canonical shards, their schema and their statistics.

read typed rows -> order and identify them -> classes -> split -> write shards -> fit on the training split -> schema
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayml.errors import StageError
from rayml.ml.schema import ImageFeature, Schema
from rayml.ml.shards import Integers, ShardSet, save_schema
from rayml.plan.listing import Listing
from rayml.plan.plan import Step
from rayml.plan.sources import fingerprint, fingerprint_of, is_in_bucket, list_files
from rayml.spec.data import CallableSource, CsvSource, ImageFolderSource, SklearnSource, Source
from rayml.spec.words import count
from rayml.stages.api import Context, Inputs, Outcome
from rayml.stages.data.config import DataConfig
from rayml.stages.data.fit import Floats, Moments, fit_normalization
from rayml.stages.data.labels import encode_labels
from rayml.stages.data.pipeline import Index, Target, finish, read_rows, write_split
from rayml.stages.data.rows import Feature, Reading, name_rows, sample_ids
from rayml.stages.data.split import SPLITS, split_rows

STATISTICS_FILE = "stats.json"
IGNORED_NAMES = 20
"""How many of the columns or files that were passed over are named; all are counted."""


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Write `SPLIT-NNNNN.arrow`, schema.json and stats.json to `context.out`. Ray has been initialised.

    Raises:
        StageError: the source is not what the job says, with the rows or files that are wrong; or it is in a bucket
            and not what it was when the plan was made.
    """
    config = DataConfig.model_validate(step.config)
    base = context.resolve(".")
    sent: str | None = step.policy.get("sent")
    before, listing = look(config.source, base, sent)
    refuse_others(config, before)
    reading = understand(config, context, listing)
    context.emit("note", text=f"reading {count(len(reading.names), 'file')}")
    index = read_rows(reading.tasks)
    if look(config.source, base, sent)[0] != before:
        raise StageError("the source changed while it was read", hint="run again when nothing writes to it")
    ids = sample_ids(reading.names, index.file, index.row)
    place = partial(_place, reading, index)
    refuse_duplicates(ids, place)
    classes, labels = encode_labels(
        index.codes, index.texts, text_labels=reading.text_labels, name=config.label, place=place
    )
    shares = (config.split.train, config.split.val, config.split.test)
    splits = split_rows(ids, labels, classes, shares, config.split.stratify, config.seed)
    context.emit("note", text=f"writing {count(len(ids), 'row')}")
    moments = _write(config, context, reading.feature, index, ids, labels, splits)
    medians = _medians(context, reading.feature) if config.missing == "median" else None
    normalization = fit_normalization(reading.feature, moments, config.normalize, config.missing, medians)
    schema = Schema(feature=reading.feature, label=config.label, classes=classes, normalization=normalization)
    save_schema(context.out, schema)
    counts = {
        name: np.bincount(labels[splits == number], minlength=len(classes)).tolist()
        for number, name in enumerate(SPLITS)
    }
    return _outcome(config, context, reading, schema, counts, moments)


def look(source: Source, base: Path, sent: str | None) -> tuple[str, Listing | None]:
    """The fingerprint of the source as it is now, and its files where it has some.

    Args:
        sent: where the source's files were sent; see `rayml.plan.sources.list_files`.
    """
    if isinstance(source, SklearnSource | CallableSource):
        return fingerprint(source, base), None
    listing = list_files(source, base, sent)
    return fingerprint_of(source, listing), listing


def refuse_others(config: DataConfig, found: str) -> None:
    """StageError where a bucket holds other objects than those that the step's key is for.

    Times of change may differ between hosts that have the same files; ETags are the same everywhere.
    """
    source = config.source
    if isinstance(source, SklearnSource | CallableSource) or not is_in_bucket(source):
        return
    if found != config.fingerprint:
        raise StageError(
            "the objects changed since the plan was made",
            where=f"data.source.path {source.path}",
            hint="run or submit the job again, which plans it for what is there now",
        )


def understand(config: DataConfig, context: Context, listing: Listing | None) -> Reading:
    """What the rows of the source are, and the tasks that read them.

    Args:
        listing: the source's files, where it has some.
    """
    source = config.source
    # Each module brings a library of its own; a job loads the one that it needs.
    if isinstance(source, SklearnSource):
        from rayml.stages.data.builtin import read_sklearn

        return read_sklearn(source, config)
    if isinstance(source, CallableSource):
        from rayml.stages.data.custom import read_callable

        return read_callable(source, config, context.plan.code, context.hosts)
    assert listing is not None, "every other source is files"
    if isinstance(source, ImageFolderSource):
        from rayml.stages.data.pictures import read_image_folder

        return read_image_folder(listing, config)
    from rayml.stages.data.tables import read_csv_source, read_parquet_source

    return read_csv_source(listing, config) if isinstance(source, CsvSource) else read_parquet_source(listing, config)


def refuse_duplicates(ids: Integers, place: Any) -> None:
    """Raise a StageError where two rows have one sample id."""
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(twice):
        pair = order[twice[0] : twice[0] + 2]
        raise StageError(
            f"the row has the sample id {ids[pair[0]]}, and so has {place(pair[1:])}",
            where=place(pair[:1]),
            hint="rename one of the files: the id is a hash of the file's name and the row's number",
        )


def _place(reading: Reading, index: Index, positions: NDArray[Any]) -> str:
    """Where the first rows at these positions are: those that lie in the first one's file."""
    file = index.file[positions[0]]
    return name_rows(reading.origins[file], index.row[positions[index.file[positions] == file]])


def _write(
    config: DataConfig,
    context: Context,
    feature: Feature,
    index: Index,
    ids: Integers,
    labels: Integers,
    splits: NDArray[np.uint8],
) -> Moments:
    """Write all shards; the moments of the training split."""
    target = Target(context.out, config.shard_rows, feature.shape, np.dtype(feature.dtype).itemsize, context.hosts)
    tasks = [
        write_split(index, name, np.flatnonzero(splits == number), ids, labels, target)
        for number, name in enumerate(SPLITS)
    ]
    results = finish([task for split in tasks for task in split])
    context.hosts.fetch(context.out)
    moments: Moments = results[0]
    for part in results[1 : len(tasks[0])]:
        moments = moments.merge(part)
    return moments


def _medians(context: Context, feature: Feature) -> Floats:
    """Exact medians of the training split's columns, one column in memory at a time."""
    if isinstance(feature, ImageFeature):
        return np.zeros(feature.channels)
    shards = ShardSet.open(context.out, "train").shards
    medians = np.empty(len(feature.columns))
    for column in range(len(medians)):
        values = np.concatenate([shard[:, column] for shard in shards]).astype(np.float64)
        present = values[~np.isnan(values)]
        medians[column] = np.median(present) if len(present) else np.nan
    return medians


def _outcome(
    config: DataConfig,
    context: Context,
    reading: Reading,
    schema: Schema,
    counts: dict[str, list[int]],
    moments: Moments,
) -> Outcome:
    """Write stats.json, and say the same of the artifact."""
    feature, rows = schema.feature, {name: sum(count) for name, count in counts.items()}
    facts = {
        "classes": list(schema.classes),
        "class_counts": counts,
        "shape": list(feature.shape),
        "dtype": feature.dtype,
        "feature": feature.name,
        "source": {
            **config.source.model_dump(mode="json"),
            "fingerprint": config.fingerprint,
            "files": len(reading.names),
            "ignored": list(reading.ignored[:IGNORED_NAMES]),
            "ignored_count": len(reading.ignored),
        },
        "statistics": _statistics(feature, moments),
        "transforms": {"normalize": config.normalize, **schema.normalization.model_dump(mode="json")},
    }
    (context.out / STATISTICS_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    metrics = {
        "rows": sum(rows.values()),
        **{f"rows_{name}": count for name, count in rows.items()},
        "classes": len(schema.classes),
        "bytes": sum(path.stat().st_size for path in context.out.glob("*.arrow")),
    }
    return Outcome(metrics={name: float(value) for name, value in metrics.items()}, facts=facts)


def _statistics(feature: Feature, moments: Moments) -> dict[str, Any]:
    """Of the training split, per channel (0 ... 255) or column; what is missing does not count."""
    if isinstance(feature, ImageFeature):
        names: tuple[str, ...] = ("gray",) if feature.channels == 1 else ("red", "green", "blue")
    else:
        names = feature.columns
    return {
        "columns": list(names),
        "count": moments.count.astype(int).tolist(),
        "min": moments.low.tolist(),
        "max": moments.high.tolist(),
        "mean": moments.mean.tolist(),
        "std": moments.std.tolist(),
    }
