"""The live endpoint against the trained checkpoint: the frozen rows of the export, asked through HTTP in both ways."""

from __future__ import annotations

import json
import math
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rayml.artifacts.archives import refuse_compressed
from rayml.errors import StageError
from rayml.stages.serve.client import Answer, Asker, document_of

PARITY_FILE = "parity.npz"
_LATENCY_REQUESTS = 200
_LATENCY_S = 3.0
_CHUNK_BYTES = 2**20

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Frozen:
    """Rows with the answers of the trained checkpoint."""

    sample_ids: npt.NDArray[np.int64]
    inputs: Array
    """`[n, *feature.shape]`, raw records."""
    probabilities: npt.NDArray[np.float32]
    """`[n, classes]`, by the model before."""
    labels: npt.NDArray[np.int64]
    """The true classes, as places in the schema's list."""


@dataclass(frozen=True)
class Answers:
    """What the endpoint said to the frozen rows."""

    labels: list[str]
    probabilities: npt.NDArray[np.float32]
    """`[n, classes]`."""


def load_frozen(folder: Path, samples: int) -> Frozen:
    """The first `samples` frozen rows of an export artifact; all where it has fewer.

    Raises:
        StageError: the file is missing, damaged, or empty.
    """
    path = folder / PARITY_FILE
    refuse_compressed(path, str(path), "export again")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, inputs, probabilities, labels = (
                arrays[name] for name in ("sample_ids", "inputs", "probabilities", "labels")
            )
    except (OSError, EOFError, ValueError, KeyError, TypeError, MemoryError, zipfile.BadZipFile) as error:
        raise StageError(f"the frozen rows cannot be read: {error}", where=str(path), hint="export again") from error
    if not 0 < len(ids) == len(inputs) == len(probabilities) == len(labels):
        raise StageError(
            f"{len(ids)} ids, {len(inputs)} inputs, {len(labels)} labels, {len(probabilities)} answers: no frozen rows",
            where=str(path),
        )
    return Frozen(ids[:samples], inputs[:samples], probabilities[:samples], labels[:samples])


def ask_infer(asker: Asker, model: str, tensor: str, inputs: Array, max_rows: int) -> Answers:
    """Answers through the Open Inference Protocol with binary tensors."""
    labels: list[str] = []
    parts = []
    for rows in _chunks(inputs, max_rows):
        body, headers = infer_request(tensor, rows)
        answer = asker.ask("POST", f"/v2/models/{model}/infer", body, headers)
        found = _infer_answer(answer)
        labels += found["label"]
        parts.append(found["probabilities"])
    return Answers(labels, np.concatenate(parts))


def ask_predict(asker: Asker, classes: tuple[str, ...], inputs: Array, max_rows: int) -> Answers:
    """Answers through `POST /predict` with JSON records; a NaN of a table travels as null."""
    labels: list[str] = []
    rows_found = []
    for rows in _chunks(inputs, max_rows):
        records = rows.tolist()
        if rows.dtype.kind == "f":
            records = [[None if math.isnan(value) else value for value in record] for record in records]
        body = json.dumps({"instances": records}).encode()
        answer = asker.ask("POST", "/predict", body, {"Content-Type": "application/json"})
        document = document_of(answer, "/predict", "the endpoint's parity")
        labels += [prediction["label"] for prediction in document["predictions"]]
        rows_found += [
            [prediction["probabilities"][name] for name in classes] for prediction in document["predictions"]
        ]
    return Answers(labels, np.array(rows_found, np.float32))


def measure_latency(asker: Asker, model: str, tensor: str, inputs: Array) -> npt.NDArray[np.float64]:
    """Milliseconds of single-row requests, one after the other on one connection: 200, or what fits in 3 s."""
    path = f"/v2/models/{model}/infer"
    requests = [infer_request(tensor, inputs[index : index + 1]) for index in range(min(len(inputs), 32))]
    took = []
    started = time.perf_counter()
    for index in range(_LATENCY_REQUESTS):
        body, headers = requests[index % len(requests)]
        before = time.perf_counter()
        _infer_answer(asker.ask("POST", path, body, headers))
        took.append((time.perf_counter() - before) * 1e3)
        if time.perf_counter() - started > _LATENCY_S:
            break
    return np.array(took)


def compare(frozen: Frozen, classes: tuple[str, ...], answers: Answers) -> tuple[float, int, dict[str, Any]]:
    """Largest difference of two probabilities, number of other labels, and the worst sample.

    A value that is no number differs by 1, the most that two probabilities can.
    """
    difference = np.nan_to_num(np.abs(answers.probabilities - frozen.probabilities), nan=1.0, posinf=1.0)
    row, column = map(int, np.unravel_index(np.argmax(difference), difference.shape))
    expected = [classes[index] for index in frozen.probabilities.argmax(1)]
    worst = {
        "sample_id": int(frozen.sample_ids[row]),
        "tensor": f"probabilities[{classes[column]}]",
        "expected": float(np.nan_to_num(frozen.probabilities[row, column])),
        "got": float(answers.probabilities[row, column]),
    }
    mismatches = sum(got != want for got, want in zip(answers.labels, expected, strict=True))
    return float(difference[row, column]), mismatches, worst


def infer_request(tensor: str, rows: Array) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an infer request with binary tensors both ways."""
    datatype = {"uint8": "UINT8", "float32": "FP32"}[rows.dtype.name]
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": tensor,
                    "datatype": datatype,
                    "shape": list(rows.shape),
                    "parameters": {"binary_data_size": rows.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))}
    return header + rows.tobytes(), headers


def _infer_answer(answer: Answer) -> dict[str, Any]:
    """`label` as a list of str and `probabilities` as `[n, classes] float32`."""
    if answer.status != 200:
        raise StageError(f"infer answered {answer.status}: {answer.body[:300].decode(errors='replace')}")
    length = int(answer.headers["inference-header-content-length"])
    document, rest = json.loads(answer.body[:length]), answer.body[length:]
    found: dict[str, Any] = {}
    for tensor in document["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        data, rest = rest[:size], rest[size:]
        is_text = tensor["datatype"] == "BYTES"
        found[tensor["name"]] = _strings(data) if is_text else np.frombuffer(data, np.float32).reshape(tensor["shape"])
    return found


def _strings(data: bytes) -> list[str]:
    texts = []
    while data:
        end = 4 + int.from_bytes(data[:4], "little")
        texts.append(data[4:end].decode())
        data = data[end:]
    return texts


def _chunks(inputs: Array, max_rows: int) -> Iterator[Array]:
    """Requests of about a megabyte, far below what an endpoint must take."""
    rows = max(1, min(max_rows, _CHUNK_BYTES // max(1, inputs[0].nbytes * 6)))
    for start in range(0, len(inputs), rows):
        yield inputs[start : start + rows]
