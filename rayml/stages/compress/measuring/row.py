"""All that is measured of one candidate, as one row of JSON."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayml.ml.schema import Schema
from rayml.ml.shards import ShardSet
from rayml.ml.trained import frozen_sample
from rayml.stages.compress.measuring.agreement import accuracy, agreement, loss
from rayml.stages.compress.measuring.answers import answers, answers_of
from rayml.stages.compress.measuring.cost import measure_cost
from rayml.stages.compress.measuring.energy import measure_energy
from rayml.stages.compress.measuring.latency import measure_latency
from rayml.stages.compress.measuring.memory import measure_memory

SPLIT = "val"
SAMPLES = 64
CPUINFO = Path("/proc/cpuinfo")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp")
"""Instructions that decide whether fewer bits are faster."""


def measure_row(
    candidate: Path, baseline: Path, schema: Schema, data: Path, *, seed: int, threads: int
) -> dict[str, Any]:
    """What a candidate is worth beside the uncompressed model; where both are one file, a ratio of 1 and a drop of 0.

    Args:
        candidate, baseline: ONNX files, raw records in, `label` and `probabilities` out.
        data: folder of the canonical shards. Accuracy and loss are of the validation split, parity is of the frozen
            sample of the test split, which also is what the model answers while it is timed.
        threads: for the answers. Latency is measured at 1 and 2, memory and energy at 1.

    Raises:
        StageError: a model cannot be loaded or run.
    """
    rows = ShardSet.open(data, SPLIT)
    labels = np.asarray(rows.labels)
    before = answers(baseline, schema, rows, threads)
    after = before if candidate == baseline else answers(candidate, schema, rows, threads)
    _, records = frozen_sample(data, SAMPLES)
    feature = schema.feature.name
    return {
        **measure_cost(candidate),
        "accuracy": accuracy(labels, before, after, seed=seed).to_json(),
        "agreement": agreement(labels, before, after).to_json(),
        "loss": loss(labels, after),
        "latency": measure_latency([baseline, candidate], feature, records, seed=seed)[1],
        "ram": measure_memory(candidate, feature, records),
        "energy": measure_energy(candidate, feature, records),
        "parity": measure_parity(candidate, baseline, schema, records, threads),
        "processor": processor(),
    }


def measure_parity(
    candidate: Path, baseline: Path, schema: Schema, records: NDArray[Any], threads: int
) -> dict[str, Any]:
    """How far two files answer the same for raw records `[n, *shape]`."""
    before, after = (answers_of(path, schema, records, threads) for path in (baseline, candidate))
    found = agreement(np.zeros(len(records), np.int64), before, after)
    return {"samples": found.rows, "agreement": found.value, "max_abs": found.max_abs, "mean_abs": found.mean_abs}


def processor(cpuinfo: Path = CPUINFO) -> dict[str, Any]:
    """`name`, `machine`, and those of FLAGS that the processor has."""
    fields: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    has = set(fields.get("flags", fields.get("Features", "")).split())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return {"name": name, "machine": platform.machine(), "flags": [flag for flag in FLAGS if flag in has]}
