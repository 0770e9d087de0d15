"""The endpoint as its users meet it: tritonclient, curl-like requests, image files."""

from __future__ import annotations

import base64
import gzip
import http.client
import io
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

INFER = "/v2/models/ziffern/infer"
VERSION = "3f2a9c01d4e7"


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (4, 5, 7, 1), np.uint8)


def auth(endpoint: SimpleNamespace) -> dict[str, str]:
    return {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}


def ask(
    endpoint: SimpleNamespace,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    key: bool = True,
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=5)
    try:
        connection.request(method, path, body, {**(auth(endpoint) if key else {}), **(headers or {})})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def ask_json(endpoint: SimpleNamespace, path: str, document: object) -> dict[str, object]:
    body = json.dumps(document).encode()
    status, _, answer = ask(endpoint, "POST", path, body, {"Content-Type": "application/json"})
    assert status == 200, answer
    return json.loads(answer)


def infer_document(rows: np.ndarray, **more: object) -> dict[str, object]:
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    return {"inputs": [tensor], **more}


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def test_tritonclient_finds_its_way(images: SimpleNamespace) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{images.port}")
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("ziffern", headers=auth(images))
    assert client.is_model_ready("ziffern", VERSION, headers=auth(images))
    assert not client.is_model_ready("anderes", headers=auth(images))
    assert client.get_server_metadata(headers=auth(images))["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("ziffern", headers=auth(images))
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 5, 7, 1]}]
    assert [output["shape"] for output in metadata["outputs"]] == [[-1], [-1, 6]]
    with pytest.raises(InferenceServerException, match=r"\[404\] nothing at"):
        client.get_model_repository_index(headers=auth(images))
    with pytest.raises(InferenceServerException, match="404"):
        client.get_inference_statistics("ziffern", headers=auth(images))
    with pytest.raises(InferenceServerException, match="404"):
        client.get_model_config("ziffern", headers=auth(images))


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_tritonclient_infers(
    images: SimpleNamespace, rows: np.ndarray, compression: str, binary_in: bool, binary_out: bool | None
) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{images.port}")
    tensor = triton.InferInput("image", rows.shape, "UINT8")
    tensor.set_data_from_numpy(rows, binary_data=binary_in)
    names = ("probabilities", "label")
    outputs = None if binary_out is None else [triton.InferRequestedOutput(n, binary_data=binary_out) for n in names]
    result = client.infer(
        "ziffern",
        [tensor],
        outputs=outputs,
        request_id="ä 7",
        headers=auth(images),
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    labels, probabilities = images.model.infer(rows)
    got = [value.decode() if isinstance(value, bytes) else value for value in result.as_numpy("label")]
    assert got == labels.tolist()
    np.testing.assert_array_equal(result.as_numpy("probabilities"), probabilities)
    assert result.get_response()["id"] == "ä 7"
    assert result.get_response()["model_version"] == VERSION


def test_table_through_tritonclient(tables: SimpleNamespace) -> None:
    rows = np.array([[1.5, -2, 3e10], [0, 0, 0]], np.float32)
    client = triton.InferenceServerClient(f"127.0.0.1:{tables.port}")
    tensor = triton.InferInput("features", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    result = client.infer("ziffern", [tensor])
    np.testing.assert_array_equal(result.as_numpy("probabilities"), tables.model.infer(rows)[1])


def test_outputs_as_asked(images: SimpleNamespace, rows: np.ndarray) -> None:
    answer = ask_json(images, INFER, infer_document(rows, outputs=[{"name": "label"}]))
    assert [output["name"] for output in answer["outputs"]] == ["label"]
    assert answer["outputs"][0]["data"] == images.model.infer(rows)[0].tolist()
    assert "id" not in answer


def test_nested_data_and_other_paths(images: SimpleNamespace, rows: np.ndarray) -> None:
    document = infer_document(rows)
    expected = ask_json(images, INFER, document)
    document["inputs"][0]["data"] = rows.tolist()
    assert ask_json(images, f"/v2/models/ziffern/versions/{VERSION}/infer", document) == expected


def test_raw_binary_request(images: SimpleNamespace, rows: np.ndarray) -> None:
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}
    status, got, body = ask(images, "POST", INFER, rows.tobytes(), headers)
    assert status == 200
    header = json.loads(body[: int(got["inference-header-content-length"])])
    assert header["outputs"][1]["shape"] == [4, 6]


def test_chunked_body(images: SimpleNamespace, rows: np.ndarray) -> None:
    body = json.dumps(infer_document(rows)).encode()
    parts = iter([body[:7], body[7:100], body[100:]])
    connection = http.client.HTTPConnection("127.0.0.1", images.port, timeout=5)
    connection.request("POST", INFER, parts, auth(images), encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()


def test_what_needs_no_key(images: SimpleNamespace) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert ask(images, "GET", path, key=False)[0] == 200
    paths = ["/v2", "/v2/models/ziffern", "/v2/models/ziffern/ready", INFER, "/predict", "/nowhere", "/v2/models/x"]
    for path in paths:
        for headers in (
            {},
            {"Authorization": "Bearer "},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {images.key}"},
            {"Authorization": images.key},
            {"Authorization": f"Bearer {images.key}x"},
            {"Authorization": "Bearer \xff\xfe"},
        ):
            status, got, body = ask(images, "GET", path, headers=headers, key=False)
            assert status == 401, (path, headers)
            assert got["www-authenticate"] == "Bearer"
            assert images.key.encode() not in body
    assert ask(images, "GET", "/v2", headers={"Authorization": f"bearer {images.key}"}, key=False)[0] == 200


def test_head_and_headers(images: SimpleNamespace) -> None:
    status, headers, body = ask(images, "HEAD", "/v2")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 10
    assert headers["x-model-version"] == VERSION


@pytest.mark.parametrize(
    ("given", "echoed"),
    [("req-7.ä", False), ("abc_1:2.3-4", True), ("x" * 65, False), ("a b", False), ("", False)],
)
def test_request_id_is_echoed_when_harmless(images: SimpleNamespace, given: str, echoed: bool) -> None:
    _, headers, _ = ask(images, "GET", "/v2", headers={"X-Request-Id": given})
    assert (headers["x-request-id"] == given) is echoed
    assert headers["x-request-id"]


def test_large_body_gets_its_answer(images: SimpleNamespace) -> None:
    """20 MB against a limit of 64 KiB: the sentence arrives, and not a connection reset."""
    status, headers, body = ask(images, "POST", INFER, bytes(20_000_000))
    assert status == 413
    assert b"larger than 65536 bytes" in body
    assert headers["connection"] == "close"


def test_predict_image_in_every_way(images: SimpleNamespace, rows: np.ndarray) -> None:
    pixels = rows[0]
    labels, probabilities = images.model.infer(rows[:1])
    expected = dict(zip(images.model.schema.classes, probabilities[0].tolist(), strict=True))
    file = png(pixels[..., 0])
    encoded = base64.b64encode(file).decode()
    form = b'--X\r\nContent-Disposition: form-data; name="datei"; filename="\xc3\xa4.png"\r\n\r\n%s\r\n--X--\r\n' % file
    note = b'--X\r\nContent-Disposition: form-data; name="note"\r\n\r\nhallo\r\n'
    for body, kind in (
        (json.dumps(pixels.tolist()).encode(), "application/json"),
        (json.dumps(pixels[..., 0].tolist()).encode(), "application/x-www-form-urlencoded"),
        (json.dumps({"instances": [pixels.tolist()]}).encode(), "application/json; charset=utf-8"),
        (json.dumps({"b64": encoded}).encode(), "application/json"),
        (json.dumps({"instances": [{"b64": encoded}]}).encode(), "application/json"),
        (file, "image/png"),
        (form, "multipart/form-data; boundary=X"),
        (note + form, 'Multipart/Form-Data; charset=x; boundary="X"'),
    ):
        status, _, answer = ask(images, "POST", "/predict", body, {"Content-Type": kind})
        assert status == 200, (kind, answer)
        document = json.loads(answer)
        assert (document["model"], document["version"]) == ("ziffern", VERSION)
        (prediction,) = document["predictions"]
        assert prediction["label"] == labels[0]
        assert prediction["probabilities"] == expected
        assert prediction["probability"] == max(expected.values())


def test_predict_takes_photos_of_another_size(images: SimpleNamespace) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (61, 83, 3), np.uint8)
    status, _, answer = ask(images, "POST", "/predict", png(photo, "JPEG"), {"Content-Type": "image/jpeg"})
    assert status == 200, answer


def test_predict_rows_of_a_table(tables: SimpleNamespace) -> None:
    rows = np.array([[1.5, -2, 30], [4, 5, 6]], np.float32)
    expected = tables.model.infer(rows)[0].tolist()
    records = [dict(zip(("preis", "länge", "breite"), (30, 1.5, -2), strict=True)), [4, 5, 6.0]]
    document = ask_json(tables, "/predict", {"instances": records})
    assert [prediction["label"] for prediction in document["predictions"]] == expected
    assert ask_json(tables, "/predict", records[0])["predictions"] == document["predictions"][:1]
    assert ask_json(tables, "/predict", [4, 5, 6])["predictions"] == document["predictions"][1:]


def test_compressed_predict(tables: SimpleNamespace) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    status, _, _ = ask(tables, "POST", "/predict", gzip.compress(b"[1, 2, 3]"), headers)
    assert status == 200


def test_health_is_answered_while_a_long_request_runs(tmp_path: object, images: SimpleNamespace) -> None:
    """A large body goes to a thread; health answers meanwhile, and the answers of many clients are their own."""
    rows = np.random.default_rng(9).integers(0, 256, (100, 5, 7, 1), np.uint8)
    expected = images.model.infer(rows)[0].tolist()
    stop = threading.Event()
    wrong = []

    def load() -> None:
        while not stop.is_set():
            answer = ask_json(images, INFER, infer_document(rows, outputs=[{"name": "label"}]))
            if answer["outputs"][0]["data"] != expected:
                wrong.append(answer)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    for _ in range(50):
        started = time.monotonic()
        assert ask(images, "GET", "/v2/health/ready")[0] == 200
        slowest = max(slowest, time.monotonic() - started)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert slowest < 1
