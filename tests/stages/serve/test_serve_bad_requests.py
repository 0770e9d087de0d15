"""Whatever a client sends is answered with 4xx and one sentence, quickly, and the endpoint lives on."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import time
import zlib
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

INFER = "/v2/models/ziffern/infer"
ROW = [3] * 35


def tensor(**changes: object) -> dict[str, object]:
    base = {"name": "image", "datatype": "UINT8", "shape": [1, 5, 7, 1], "data": ROW, **changes}
    return {name: value for name, value in base.items() if value is not ...}


def infer(*tensors: object, **more: object) -> bytes:
    return json.dumps({"inputs": list(tensors), **more}).encode()


def binary(size: object = 35, shape: object = (1, 5, 7, 1), **more: object) -> bytes:
    return infer(tensor(shape=shape, data=..., parameters={"binary_data_size": size}), **more)


def form(*parts: bytes, boundary: bytes = b"XX", end: bytes = b"--") -> bytes:
    return b"".join(b"--%s\r\n%s\r\n" % (boundary, part) for part in parts) + b"--%s%s\r\n" % (boundary, end)


GOOD = infer(tensor())
FILE = b'Content-Disposition: form-data; name="f"; filename="a.png"\r\n\r\nno image'
DEEP = b"[" * 10_000 + b"]" * 10_000
LENGTH = "Inference-Header-Content-Length"
# name: (status, path, headers, body); a header None is left out.
BAD: dict[str, tuple[int, str, dict[str, object], bytes]] = {
    "empty body": (400, INFER, {}, b""),
    "not json": (400, INFER, {}, b"hello"),
    "cut json": (400, INFER, {}, GOOD[:-3]),
    "json with a tail": (400, INFER, {}, GOOD + b"x"),
    "json is a list": (400, INFER, {}, b"[]"),
    "json is null": (400, INFER, {}, b"null"),
    "deep list": (400, INFER, {}, DEEP),
    "deep object": (400, INFER, {}, b'{"a":' * 10_000),
    "deep data": (400, INFER, {}, GOOD.replace(json.dumps(ROW).encode(), b"[" * 900 + b"]" * 900)),
    "deep datatype": (400, INFER, {}, GOOD.replace(b'"UINT8"', b"[" * 900 + b"]" * 900)),
    "invalid utf-8": (400, INFER, {}, b'{"inputs": "\xff\xfe"}'),
    "utf-16": (400, INFER, {}, GOOD.decode().encode("utf-16")),
    "nul bytes": (400, INFER, {}, b"\0" * 100),
    "nan": (400, INFER, {}, GOOD.replace(b"[3,", b"[NaN,")),
    "infinity": (400, INFER, {}, GOOD.replace(b"[3,", b"[-Infinity,")),
    "5000 digits": (400, INFER, {}, GOOD.replace(b"[3,", b"[" + b"9" * 5000 + b",")),
    "no inputs": (400, INFER, {}, b"{}"),
    "inputs empty": (400, INFER, {}, infer()),
    "inputs object": (400, INFER, {}, b'{"inputs": {}}'),
    "input is a number": (400, INFER, {}, infer(7)),
    "input without a name": (400, INFER, {}, infer(tensor(name=...))),
    "name is a number": (400, INFER, {}, infer(tensor(name=7))),
    "another name": (400, INFER, {}, infer(tensor(name="bild"))),
    "name with a surrogate": (400, INFER, {}, GOOD.replace(b'"image"', b'"\\ud800"')),
    "name of a megabyte": (413, INFER, {}, infer(tensor(name="x" * 2**20))),
    "given twice": (400, INFER, {}, infer(tensor(), tensor())),
    **{
        f"datatype {name}": (400, INFER, {}, infer(tensor(datatype=name)))
        for name in (
            *("BOOL", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64"),
            *("BYTES", "uint8", "FLOAT", "", None, 8, ["UINT8"]),
        )
    },
    "no datatype": (400, INFER, {}, infer(tensor(datatype=...))),
    **{
        f"shape {shape}": (400, INFER, {}, infer(tensor(shape=shape)))
        for shape in (
            *([], [0, 5, 7, 1], [-1, 5, 7, 1], [1, -5, -7, 1], [1, 7, 5, 1], [1, 5, 7], [1, 35], [35], [2, 5, 7, 1]),
            *([2**63, 5, 7, 1], [2**31, 5, 7, 1], [1, 2**63, 7, 1], [1.0, 5, 7, 1], [True, 5, 7, 1], ["1", 5, 7, 1]),
            *([None, 5, 7, 1], [[1], 5, 7, 1], [1] * 2000, {}, "1,5,7,1", 35, None),
        )
    },
    "no shape": (400, INFER, {}, infer(tensor(shape=...))),
    "too many rows": (413, INFER, {}, infer(tensor(shape=[101, 5, 7, 1], data=[3] * 101 * 35))),
    "many rows, no data": (413, INFER, {}, infer(tensor(shape=[2**30, 5, 7, 1]))),
    "no data": (400, INFER, {}, infer(tensor(data=...))),
    "data null": (400, INFER, {}, infer(tensor(data=None))),
    "data text": (400, INFER, {}, infer(tensor(data="x" * 35))),
    "data object": (400, INFER, {}, infer(tensor(data={"0": 1}))),
    "data short": (400, INFER, {}, infer(tensor(data=ROW[1:]))),
    "data long": (400, INFER, {}, infer(tensor(data=[*ROW, 1]))),
    "data empty": (400, INFER, {}, infer(tensor(data=[]))),
    "data of empty lists": (400, INFER, {}, infer(tensor(data=[[]] * 35))),
    "data nested wrongly": (400, INFER, {}, infer(tensor(data=[[3] * 5] * 7))),
    "data ragged": (400, INFER, {}, infer(tensor(data=[[3] * 30, [3] * 5]))),
    **{
        f"value {value!r}": (400, INFER, {}, infer(tensor(data=[value, *ROW[1:]])))
        for value in (-1, 256, 2**63, -(2**63), 10**400, 1.0, 1e300, True, None, "3", [3], {})
    },
    "id is a number": (400, INFER, {}, infer(tensor(), id=7)),
    "parameters is a list": (400, INFER, {}, infer(tensor(), parameters=[])),
    "tensor parameters is text": (400, INFER, {}, infer(tensor(parameters="x"))),
    "shared memory": (400, INFER, {}, infer(tensor(parameters={"shared_memory_region": "r"}))),
    "binary_data_output is 1": (400, INFER, {}, infer(tensor(), parameters={"binary_data_output": 1})),
    "outputs is an object": (400, INFER, {}, infer(tensor(), outputs={})),
    "output is text": (400, INFER, {}, infer(tensor(), outputs=["label"])),
    "output unknown": (400, INFER, {}, infer(tensor(), outputs=[{"name": "logits"}])),
    "output twice": (400, INFER, {}, infer(tensor(), outputs=[{"name": "label"}, {"name": "label"}])),
    "classification": (
        400,
        INFER,
        {},
        infer(tensor(), outputs=[{"name": "label", "parameters": {"classification": 3}}]),
    ),
    "binary_data is text": (
        400,
        INFER,
        {},
        infer(tensor(), outputs=[{"name": "label", "parameters": {"binary_data": "no"}}]),
    ),
    **{
        f"header length {value}": (400, INFER, {LENGTH: value}, GOOD + bytes(35))
        for value in (-1, 10**6, 2**63, 10**30, "", "abc", "1e3", "0x10", "+5", 5, len(GOOD) - 1, len(GOOD) + 1, 0)
    },
    "binary without header length": (400, INFER, {}, binary()),
    "binary after json, not announced": (400, INFER, {LENGTH: len(GOOD)}, GOOD + bytes(35)),
    **{
        f"binary size {size!r}": (400, INFER, {LENGTH: len(binary(size))}, binary(size) + bytes(35))
        for size in (0, 34, 36, -35, 2**63, "35", 35.0, True, [])
    },
    "binary of another shape": (
        400,
        INFER,
        {LENGTH: len(binary(35, [2, 5, 7, 1]))},
        binary(35, [2, 5, 7, 1]) + bytes(35),
    ),
    "binary cut": (400, INFER, {LENGTH: len(binary())}, binary() + bytes(34)),
    "binary and data": (
        400,
        INFER,
        {LENGTH: len(infer(tensor(parameters={"binary_data_size": 35})))},
        infer(tensor(parameters={"binary_data_size": 35})) + bytes(35),
    ),
    "raw, no whole row": (400, INFER, {LENGTH: 0}, bytes(36)),
    "raw, no row": (400, INFER, {LENGTH: 0}, b""),
    "raw, too many rows": (413, INFER, {LENGTH: 0}, bytes(35 * 101)),
    "gzip of nothing": (400, INFER, {"Content-Encoding": "gzip"}, b""),
    "gzip that is none": (400, INFER, {"Content-Encoding": "gzip"}, GOOD),
    "gzip cut": (400, INFER, {"Content-Encoding": "gzip"}, gzip.compress(GOOD)[:-4]),
    "gzip with a tail": (400, INFER, {"Content-Encoding": "gzip"}, gzip.compress(GOOD) + b"x"),
    "gzip bomb": (413, INFER, {"Content-Encoding": "gzip"}, gzip.compress(bytes(50_000_000))),
    "deflate bomb": (413, INFER, {"Content-Encoding": "deflate"}, zlib.compress(bytes(50_000_000))),
    "brotli": (415, INFER, {"Content-Encoding": "br"}, GOOD),
    "gzip twice": (415, INFER, {"Content-Encoding": "gzip, gzip"}, gzip.compress(gzip.compress(GOOD))),
    "text": (415, INFER, {"Content-Type": "text/plain"}, GOOD),
    "image to infer": (415, INFER, {"Content-Type": "image/png"}, GOOD),
    "body too large": (413, INFER, {}, bytes(2**16 + 1)),
    "another model": (404, "/v2/models/anderes/infer", {}, GOOD),
    "another version": (404, "/v2/models/ziffern/versions/7/infer", {}, GOOD),
    "repository index": (404, "/v2/repository/index", {}, b"{}"),
    "load a model": (404, "/v2/repository/models/ziffern/load", {}, b"{}"),
    "trace settings": (404, "/v2/trace/setting", {}, b"{}"),
    "generate": (404, "/v2/models/ziffern/generate", {}, b"{}"),
    "up and away": (404, "/../../etc/passwd", {}, b""),
    "escaped path": (404, "/v2/models/%FF%00%0d%0aX-Evil:1/infer", {}, GOOD),
    "post to metadata": (405, "/v2", {}, b"{}"),
    "post to health": (405, "/v2/health/ready", {}, b""),
    "predict: empty": (400, "/predict", {}, b""),
    "predict: number": (400, "/predict", {}, b"7"),
    "predict: no instances": (400, "/predict", {}, b'{"instances": []}'),
    "predict: instances and more": (400, "/predict", {}, b'{"instances": [], "x": 1}'),
    "predict: instance null": (400, "/predict", {}, b'{"instances": [null]}'),
    "predict: wrong size": (400, "/predict", {}, b"[[1, 2], [3, 4]]"),
    "predict: 256": (400, "/predict", {}, json.dumps([[256] * 7] * 5).encode()),
    "predict: float": (400, "/predict", {}, json.dumps([[0.5] * 7] * 5).encode()),
    "predict: deep": (400, "/predict", {}, DEEP),
    "predict: 900 deep": (400, "/predict", {}, b"[" * 900 + b"]" * 900),
    "predict: no base64": (400, "/predict", {}, '{"b64": "ä"}'.encode()),
    "predict: base64 of no image": (400, "/predict", {}, b'{"b64": "AAAA"}'),
    "predict: b64 null": (400, "/predict", {}, b'{"b64": null}'),
    "predict: columns": (400, "/predict", {}, '{"länge": 1}'.encode()),
    "predict: too many": (413, "/predict", {}, json.dumps({"instances": [1] * 101}).encode()),
    "predict: no image": (400, "/predict", {"Content-Type": "image/png"}, b"\x89PNG\r\n\x1a\nnope"),
    "predict: empty image": (400, "/predict", {"Content-Type": "image/jpeg"}, b""),
    "predict: svg": (400, "/predict", {"Content-Type": "image/svg+xml"}, b"<svg/>"),
    "form: no boundary": (400, "/predict", {"Content-Type": "multipart/form-data"}, form(FILE)),
    "form: other boundary": (400, "/predict", {"Content-Type": "multipart/form-data; boundary=YY"}, form(FILE)),
    "form: no image": (400, "/predict", {"Content-Type": "multipart/form-data; boundary=XX"}, form(FILE)),
    "form: two files": (400, "/predict", {"Content-Type": "multipart/form-data; boundary=XX"}, form(FILE, FILE)),
    "form: no file": (400, "/predict", {"Content-Type": "multipart/form-data; boundary=XX"}, form(b"A: b\r\n\r\nx")),
    "form: no headers": (400, "/predict", {"Content-Type": "multipart/form-data; boundary=XX"}, form(b"x")),
    "form: no end": (400, "/predict", {"Content-Type": "multipart/form-data; boundary=XX"}, form(FILE, end=b"")),
    "form: empty": (400, "/predict", {"Content-Type": "multipart/form-data; boundary=XX"}, b""),
}


def exchange(port: int, data: bytes) -> tuple[int, bytes]:
    """Status and everything after the status line."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(data)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    assert received.startswith(b"HTTP/1.1 "), received[:200]
    return int(received[9:12]), received[13:]


def request(
    endpoint: SimpleNamespace, path: str, headers: dict[str, object], body: bytes, method: str = "POST"
) -> bytes:
    fields = {"Host": "x", "Content-Type": "application/json", "Connection": "close", "Content-Length": len(body)}
    if endpoint.key:
        fields["Authorization"] = f"Bearer {endpoint.key}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**fields, **headers}.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def check_refusal(answer: bytes) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert 5 < len(error) < 600 and "\n" not in error
    for secret in ("Traceback", "/rayml/", "site-packages", ".py"):
        assert secret not in error
    assert b"X-Evil" not in head


@pytest.mark.parametrize("name", BAD)
def test_is_refused_with_a_sentence(images: SimpleNamespace, name: str) -> None:
    status, path, headers, body = BAD[name]
    started = time.monotonic()
    got, answer = exchange(images.port, request(images, path, headers, body))
    assert got == status, answer
    check_refusal(answer)
    assert time.monotonic() - started < 1
    if path == INFER and status == 400 and name.startswith(("datatype", "shape", "data", "value", "binary size")):
        assert b"tensor `image`" in answer


def test_table_is_long_enough() -> None:
    assert len(BAD) >= 80


TABLE = {
    "datatype": b'{"inputs":[{"name":"features","datatype":"UINT8","shape":[1,3],"data":[1,2,3]}]}',
    "nan": b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,3],"data":[1,NaN,3]}]}',
    "null": b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,3],"data":[1,null,3]}]}',
    "1e39": b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,3],"data":[1,1e39,3]}]}',
    "1e999": b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,3],"data":[1,1e999,3]}]}',
    "10**400": b'{"inputs":[{"name":"features","datatype":"FP32","shape":[1,3],"data":[1,1%s,3]}]}' % (b"0" * 400),
    "unknown column": '{"länge": 1, "breite": 2, "preis": 3, "höhe": 4}'.encode(),
    "similar column": '{"länge": 1, "breite": 2, "pries": 3}'.encode(),
    "missing column": '{"länge": 1, "breite": 2}'.encode(),
    "null column": '{"länge": 1, "breite": 2, "preis": null}'.encode(),
    "text column": '{"länge": 1, "breite": 2, "preis": "3"}'.encode(),
    "true column": '{"länge": 1, "breite": 2, "preis": true}'.encode(),
    "huge column": '{"länge": 1, "breite": 2, "preis": 1e39}'.encode(),
    "short row": b"[1, 2]",
    "nested row": b"[[1, 2, 3]]",
    "row of text": b'{"instances": ["1,2,3"]}',
    "image file": b"...",
}


@pytest.mark.parametrize("name", TABLE)
def test_bad_rows_of_a_table(tables: SimpleNamespace, name: str) -> None:
    path = INFER if TABLE[name].startswith(b'{"inputs"') else "/predict"
    headers: dict[str, object] = {"Content-Type": "image/png"} if name == "image file" else {}
    status, answer = exchange(tables.port, request(tables, path, headers, TABLE[name]))
    assert status == (415 if name == "image file" else 400), answer
    check_refusal(answer)
    if name == "similar column":
        assert b"did you mean 'preis'" in answer
    if "column" in name:
        assert b"record 0" in answer


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_binary_that_is_no_number(tables: SimpleNamespace, value: float) -> None:
    body = struct.pack("<6f", 1, 2, 3, 4, 5, value)
    status, answer = exchange(tables.port, request(tables, INFER, {LENGTH: 0}, body))
    assert status == 400
    assert b"row 1, column 'preis'" in answer


RAW = {
    "no length": (411, b"POST %s HTTP/1.1\r\nHost: x\r\nAUTH\r\nConnection: close\r\n\r\n"),
    "negative length": (400, b"POST %s HTTP/1.1\r\nHost: x\r\nAUTH\r\nContent-Length: -5\r\nConnection: close\r\n\r\n"),
    "length of letters": (
        400,
        b"POST %s HTTP/1.1\r\nHost: x\r\nAUTH\r\nContent-Length: abc\r\nConnection: close\r\n\r\n",
    ),
    "huge length": (
        413,
        b"POST %s HTTP/1.1\r\nHost: x\r\nAUTH\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n",
    ),
    "beyond 64 bits": (400, b"POST %s HTTP/1.1\r\nHost: x\r\nAUTH\r\nContent-Length: 99999999999999999999999\r\n\r\n"),
    "chunks too large": (
        413,
        b"POST %s HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        + b"2000\r\n%s\r\n" % bytes(0x2000) * 9
        + b"0\r\n\r\n",
    ),
    "broken chunk": (400, b"POST %s HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "chunked and empty": (
        400,
        b"POST %s HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
    ),
    "no http": (400, b"hello\r\n\r\n"),
    "tls": (400, bytes.fromhex("1603010200010001fc0303") + bytes(50)),
    "path of bytes": (400, b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n"),
    "unknown method": (400, b"BREW /v2 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "delete": (405, b"DELETE %s HTTP/1.1\r\nHost: x\r\nAUTH\r\nConnection: close\r\n\r\n"),
    "get infer": (405, b"GET %s HTTP/1.1\r\nHost: x\r\nAUTH\r\nConnection: close\r\n\r\n"),
    "options": (405, b"OPTIONS %s HTTP/1.1\r\nHost: x\r\nAUTH\r\nConnection: close\r\n\r\n"),
    "websocket": (
        405,
        b"GET %s HTTP/1.1\r\nHost: x\r\nAUTH\r\nConnection: close\r\nUpgrade: websocket\r\n\r\n",
    ),
}


@pytest.mark.parametrize("name", RAW)
def test_bytes_of_a_hostile_client(images: SimpleNamespace, name: str) -> None:
    status, data = RAW[name]
    data = data.replace(b"%s HTTP", INFER.encode() + b" HTTP").replace(
        b"AUTH", f"Authorization: Bearer {images.key}".encode()
    )
    got, answer = exchange(images.port, data)
    assert got == status, answer
    assert b"Traceback" not in answer
    if got == 405:
        assert b"allow: POST" in answer


def test_half_closed_and_vanished_clients_do_not_hurt(images: SimpleNamespace) -> None:
    whole = request(images, INFER, {}, GOOD)
    for cut in (20, len(whole) - 10):
        with socket.create_connection(("127.0.0.1", images.port), timeout=5) as connection:
            connection.sendall(whole[:cut])
    status, _ = exchange(images.port, whole)
    assert status == 200


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_json_breaks_infer(images: SimpleNamespace, data: st.DataObject) -> None:
    """Any JSON in any place of an infer request: 200 or 4xx."""
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    )
    likely = {
        "name": st.sampled_from(["image", "bild"]) | anything,
        "datatype": st.sampled_from(["UINT8", "FP32"]) | anything,
        "shape": st.lists(st.integers(-2, 9) | st.integers(), max_size=5) | st.just([1, 5, 7, 1]) | anything,
        "data": st.lists(st.integers(-1, 300), min_size=30, max_size=40) | st.just(ROW) | anything,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": anything}) | anything,
    }
    document = data.draw(
        st.fixed_dictionaries(
            {"inputs": st.lists(st.fixed_dictionaries({}, optional=likely), max_size=2) | anything},
            optional={"id": anything, "outputs": st.lists(anything, max_size=3) | anything, "parameters": anything},
        )
    )
    body = json.dumps(document).encode()
    headers: dict[str, object] = data.draw(st.sampled_from([{}, {LENGTH: len(body)}, {LENGTH: len(body) // 2}]))
    status, answer = exchange(images.port, request(images, INFER, headers, body))
    assert status == 200 or 400 <= status < 500
    if status != 200:
        check_refusal(answer)
