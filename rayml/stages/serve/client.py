"""Asking an endpoint from the command line or a check. Standard library only, so `rayml predict` starts fast."""

from __future__ import annotations

import csv
import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import urlsplit

from rayml.errors import BackendError, StageError

_IMAGES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}
_ROWS_PER_REQUEST = 256
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What the endpoint said."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Asker(Protocol):
    """Who asks an endpoint: a Client over HTTP, or rayml.stages.serve.inside from within a replica."""

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Any answer of the endpoint, of whatever status."""


class Client:
    """One kept-open connection to an endpoint."""

    def __init__(self, url: str, key: str | None) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if parts.scheme not in ("http", "https") or not host:
            raise BackendError("is no address of an endpoint", where=url, hint="it looks like http://127.0.0.1:8000")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._connection = kind(host, port, timeout=_TIMEOUT_S)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Any answer of the endpoint, of whatever status.

        Raises:
            BackendError: it cannot be reached.
        """
        try:
            self._connection.request(method, path, body, {**self._headers, **(headers or {})})
            response = self._connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise BackendError(
                f"the endpoint cannot be reached: {error or type(error).__name__}",
                where=self.url,
                hint="is it running? `rayml serve RUN` starts one",
            ) from error
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, data)

    def ask_json(self, method: str, path: str, body: bytes | None = None, media_type: str = "application/json") -> Any:
        """The JSON of a successful answer.

        Raises:
            StageError: the endpoint refused the request; `what` is its own sentence.
            BackendError: it cannot be reached, or what answers is no endpoint of rayml.
        """
        answer = self.ask(method, path, body, {"Content-Type": media_type} if body is not None else {})
        return document_of(answer, path, self.url)


def document_of(answer: Answer, path: str, where: str) -> Any:
    """The JSON of a successful answer.

    Raises:
        StageError: the endpoint refused the request; `what` is its own sentence.
        BackendError: what answered is no endpoint of rayml, or it failed.
    """
    try:
        document = json.loads(answer.body)
    except ValueError:
        document = None
    if answer.status == 200 and document is not None:
        return document
    sentence = document.get("error") if isinstance(document, dict) else None
    if sentence is None or answer.status >= 500:
        raise BackendError(
            f"{path} answered {answer.status} {sentence or ''}".strip(),
            where=where,
            hint="the endpoint's log says why, or the address is another service's",
        )
    hint = "the run's endpoint.json holds its key" if answer.status == 401 else ""
    raise StageError(str(sentence), where=where, hint=hint)


def predict(url: str, key: str | None, file: Path) -> dict[str, Any]:
    """Send one file to `/predict`: an image, a .json of records, or a .csv of rows with a header line.

    Returns:
        `{"predictions": [{"label", "probability", "probabilities"}], "model", "version"}`, one prediction per record.

    Raises:
        StageError: the file cannot be read, or the endpoint refuses what is in it.
        BackendError: the endpoint cannot be reached.
    """
    suffix = file.suffix.lower()
    with Client(url, key) as client:
        if suffix in _IMAGES:
            return _ask_predict(client, _read(file), _IMAGES[suffix])
        if suffix == ".json":
            return _ask_predict(client, _read(file))
        if suffix == ".csv":
            return _predict_rows(client, file)
    fits = ", ".join([".json", ".csv", *_IMAGES])
    kind = f"of the kind `{suffix}`" if suffix else "without an ending"
    raise StageError(f"a file {kind} cannot be sent", where=str(file), hint=f"what fits: {fits}")


def _ask_predict(client: Client, body: bytes, media_type: str = "application/json") -> dict[str, Any]:
    """One answer of `/predict`. BackendError where it comes from something else than an endpoint of rayml."""
    answer = client.ask_json("POST", "/predict", body, media_type)
    predictions = answer.get("predictions") if isinstance(answer, dict) else None
    if not isinstance(predictions, list) or not all(
        isinstance(each, dict) and {"label", "probability"} <= set(each) for each in predictions
    ):
        raise BackendError("/predict answered with no predictions", where=client.url, hint="is it another service's?")
    return dict(answer)


def _predict_rows(client: Client, file: Path) -> dict[str, Any]:
    rows = _rows(file)
    whole: dict[str, Any] = {}
    while part := list(islice(rows, _ROWS_PER_REQUEST)):
        answer = _ask_predict(client, json.dumps({"instances": part}).encode())
        whole = {**answer, "predictions": whole.get("predictions", []) + answer["predictions"]}
    if not whole:
        raise StageError("the file has no rows", where=str(file), hint="a header line and one row at least")
    return whole


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a CSV file as records. An empty field is a missing value; what is no number the endpoint will name."""
    reader = csv.DictReader(_read(file).decode("utf-8-sig", "replace").splitlines(), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise StageError(
                    f"the row has another number of fields than the header, which has {len(reader.fieldnames or [])}",
                    where=f"{file}:{reader.line_num}",
                )
            yield {name: _number(text) for name, text in row.items()}
    except csv.Error as error:
        raise StageError(f"the file is no CSV: {error}", where=f"{file}:{reader.line_num}") from error


def _number(text: str) -> float | int | str | None:
    text = text.strip()
    if not text:
        return None
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if abs(value) < float("inf") else text
    return text


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StageError(f"cannot be read: {error.strerror}", where=str(file)) from error
