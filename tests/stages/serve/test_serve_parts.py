"""What stands around the endpoint: the model file, keys, missing values, the client, parity, the HAProxy of a run."""

from __future__ import annotations

import http.server
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from PIL import Image

from rayml.errors import BackendError, RaymlError, StageError
from rayml.ml.schema import ImageFeature, Normalization, Schema, VectorFeature
from rayml.stages.serve import haproxy
from rayml.stages.serve.app import create_app
from rayml.stages.serve.client import Client, predict
from rayml.stages.serve.endpoint import Endpoint, read_endpoint, write_endpoint
from rayml.stages.serve.keys import KeyCheck, hash_key, new_key
from rayml.stages.serve.model import load_model
from rayml.stages.serve.parity import Frozen, ask_infer, ask_predict, compare, load_frozen, measure_latency
from rayml.stages.serve.wire import Receive, Scope, Send

CLASSES = ("ja", "nein", "weiß nicht")


def schema_of(height: int = 5, classes: tuple[str, ...] = CLASSES) -> Schema:
    feature = ImageFeature(height=height, width=7, channels=1)
    return Schema(feature=feature, label="l", classes=classes, normalization=Normalization(offset=(0,), scale=(1,)))


def endpoint_of(served: SimpleNamespace) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{served.port}", "ziffern", "3f2a9c01d4e7", served.key, os.getpid())


def test_key_hash_tells_nothing_and_checks() -> None:
    key = new_key()
    one, two = hash_key(key), hash_key(key)
    assert one != two and key not in one
    assert len(key) >= 43
    for stored in (one, two):
        assert KeyCheck(stored)(b"Bearer " + key.encode())
        for wrong in (
            None,
            b"",
            b"Bearer",
            b"Bearer ",
            key.encode(),
            b"Bearer " + key.encode()[:-1],
            b"\xff " + key.encode(),
        ):
            assert not KeyCheck(stored)(wrong)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text"])
def test_damaged_model_is_named(tmp_path: Path, write_model_file: Callable[..., Path], damage: str) -> None:
    file = write_model_file(tmp_path, schema_of()) / "model.onnx"
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"hello"}[damage])
    with pytest.raises(StageError) as caught:
        load_model(tmp_path, threads=1)
    assert caught.value.where == str(file)
    assert caught.value.hint


def noted(folder: Path, text: str) -> None:
    model = onnx.load(folder / "model.onnx")
    about = [entry for entry in model.metadata_props if entry.key != "rayml.session"]
    del model.metadata_props[:]
    model.metadata_props.extend(about)
    model.metadata_props.add(key="rayml.session", value=text)
    onnx.save_model(model, folder / "model.onnx")


def test_a_session_is_opened_as_the_file_says_that_it_is_fastest(
    tmp_path: Path, write_model_file: Callable[..., Path]
) -> None:
    write_model_file(tmp_path, schema_of())
    noted(tmp_path, '{"threads": 1, "arena": false, "execution": "parallel"}')
    options = load_model(tmp_path, threads=4).session.get_session_options()
    assert (options.intra_op_num_threads, options.enable_cpu_mem_arena) == (1, False)
    assert options.inter_op_num_threads == 1
    noted(tmp_path, '{"threads": 8, "arena": true, "execution": "parallel"}')
    options = load_model(tmp_path, threads=4).session.get_session_options()
    # onnxruntime does not tell the execution mode of a session.
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (4, 4)


@pytest.mark.parametrize("text", ["nonsense", '{"threads": 0, "arena": true, "execution": "parallel"}', "{}"])
def test_a_note_that_is_none_is_a_sentence(tmp_path: Path, write_model_file: Callable[..., Path], text: str) -> None:
    write_model_file(tmp_path, schema_of())
    noted(tmp_path, text)
    with pytest.raises(StageError, match="metadata cannot be read"):
        load_model(tmp_path, threads=1)


def test_a_file_that_reads_outside_of_its_folder_is_refused_before_it_is_run(
    tmp_path: Path, write_model_file: Callable[..., Path]
) -> None:
    write_model_file(tmp_path, schema_of())
    model = onnx.load(tmp_path / "model.onnx")
    tensor = next(each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT)
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(StageError, match="outside of the model's folder"):
        load_model(tmp_path, threads=1)


def test_model_of_another_schema_is_refused(tmp_path: Path, write_model_file: Callable[..., Path]) -> None:
    write_model_file(tmp_path / "a", schema_of(), {"schema": schema_of(height=6).model_dump()})
    with pytest.raises(StageError, match="its schema says"):
        load_model(tmp_path / "a", threads=1)
    write_model_file(tmp_path / "b", schema_of(), {"schema": schema_of(classes=("ja", "nein")).model_dump()})
    with pytest.raises(StageError, match="3 probabilities for 2 classes"):
        load_model(tmp_path / "b", threads=1)
    write_model_file(tmp_path / "c", schema_of(), {"schema": {"feature": 7}})
    with pytest.raises(StageError, match="cannot be read"):
        load_model(tmp_path / "c", threads=1)


def missing_table(folder: Path, write_model_file: Callable[..., Path], serving: Callable[..., object]) -> object:
    normalization = Normalization(offset=(0, 0, 0), scale=(1, 1, 1), missing=(1, 2, 3))
    feature = VectorFeature(columns=("länge", "breite", "preis"))
    schema = Schema(feature=feature, label="l", classes=CLASSES, normalization=normalization)
    model = load_model(write_model_file(folder, schema), threads=1)
    return serving(create_app(model, key_hash=None, max_body=2**20, max_rows=3))


def test_missing_values_where_the_model_learned_them(
    tmp_path: Path, write_model_file: Callable[..., Path], serving_app: Callable[..., object]
) -> None:
    with missing_table(tmp_path, write_model_file, serving_app) as port:
        url = f"http://127.0.0.1:{port}"
        with Client(url, None) as client:
            body = json.dumps({"instances": [{"länge": 1, "breite": None, "preis": 3}, [1, None, 3]]}).encode()
            first, second = client.ask_json("POST", "/predict", body)["predictions"]
            assert first == second
            rows = np.array([[1, np.nan, 3]] * 7, np.float32)
            by_infer = ask_infer(client, "ziffern", "features", rows, max_rows=3)
            by_predict = ask_predict(client, CLASSES, rows, max_rows=3)
        np.testing.assert_array_equal(by_infer.probabilities, by_predict.probabilities)
        assert by_infer.labels == [first["label"]] * 7
        table = tmp_path / "größe.csv"
        table.write_text("länge,breite,preis\n1,,3\n2,2.5,-3e2\n1,,3\n1,,3\n", "utf-8-sig")
        with pytest.raises(StageError, match="at most 3 fit"):
            predict(url, None, table)
        table.write_text("länge,breite,preis\n1,,3\n2,2.5,-3e2\n", "utf-8-sig")
        assert predict(url, None, table)["predictions"][0] == first


def test_client_sends_files(images: SimpleNamespace, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "Bild ä.PNG")
    (tmp_path / "zwei.json").write_text(json.dumps({"instances": [pixels.tolist()] * 2}))
    url = f"http://127.0.0.1:{images.port}"
    one = predict(url, images.key, tmp_path / "Bild ä.PNG")
    two = predict(f"127.0.0.1:{images.port}", images.key, tmp_path / "zwei.json")
    assert two["predictions"] == one["predictions"] * 2
    assert one["predictions"][0]["label"] == images.model.infer(pixels.reshape(1, 5, 7, 1))[0][0]


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        ("a.png", b"no image", StageError, "not an image"),
        ("a.json", b"{", StageError, "not JSON"),
        ("a.csv", b"x,y\n1,2\n", StageError, "record 0"),
        ("a.csv", b"x,y\n1,2,3\n", StageError, "another number of fields"),
        ("a.csv", b"x,y\n", StageError, "no rows"),
        ("a.csv", b'x,y\n"1,2\n', StageError, "no CSV"),
        ("a.parquet", b"PAR1", StageError, "cannot be sent"),
        ("nicht da.json", None, StageError, "No such file"),
    ],
)
def test_client_says_what_is_wrong(
    images: SimpleNamespace, tmp_path: Path, name: str, content: bytes | None, kind: type[RaymlError], words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=words):
        predict(f"http://127.0.0.1:{images.port}", images.key, tmp_path / name)


def test_client_without_key_or_endpoint(images: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(StageError, match="asks for its key"):
        predict(f"http://127.0.0.1:{images.port}", None, tmp_path / "a.json")
    (port,) = haproxy.free_ports(1)
    for url in (f"http://127.0.0.1:{port}", "ftp://x", "http://", "http://x:99999", ""):
        with pytest.raises(BackendError):
            predict(url, None, tmp_path / "a.json")


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"7", b'{"predictions": 3}', b'{"predictions": [{"label": "a"}]}', b"<html>"]
)
def test_client_says_that_another_service_answers(tmp_path: Path, body: bytes) -> None:
    class Another(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "a.json").write_text("[1]")
    with http.server.HTTPServer(("127.0.0.1", 0), Another) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(BackendError, match="another service"):
            predict(f"http://127.0.0.1:{server.server_port}", None, tmp_path / "a.json")


def test_ports_are_free_on_every_interface_and_not_the_systems_own_choice() -> None:
    ports = haproxy.free_ports(8)
    assert len(set(ports)) == 8
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < first or first < 21_000 for port in ports)
    for port in ports:
        with socket.create_server(("0.0.0.0", port)):
            pass


def test_client_starts_fast_and_light() -> None:
    code = """
import sys
import rayml.stages.serve.client
print(*(name for name in ("numpy", "ray", "onnxruntime", "pydantic") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == ""


def test_record_is_private_and_checked(tmp_path: Path) -> None:
    endpoint = Endpoint("http://127.0.0.1:1", "ziffern", "v", "geheim", os.getpid())
    with pytest.raises(BackendError, match="serves nothing"):
        read_endpoint(tmp_path)
    write_endpoint(tmp_path, endpoint)
    assert stat.S_IMODE((tmp_path / "endpoint.json").stat().st_mode) == 0o600
    assert read_endpoint(tmp_path) == endpoint
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_endpoint(tmp_path, Endpoint("http://127.0.0.1:1", "ziffern", "v", None, gone.pid))
    with pytest.raises(BackendError, match="has ended"):
        read_endpoint(tmp_path)


def test_parity_finds_the_worst_sample(images: SimpleNamespace) -> None:
    inputs = np.random.default_rng(5).integers(0, 256, (9, 5, 7, 1), np.uint8)
    expected = images.model.infer(inputs)[1].copy()
    frozen = Frozen(np.arange(100, 109), inputs, expected, np.zeros(9, np.int64))
    classes = images.model.schema.classes
    endpoint = endpoint_of(images)
    with Client(endpoint.url, endpoint.key) as client:
        by_infer = ask_infer(client, endpoint.model, "image", inputs, max_rows=4)
        by_predict = ask_predict(client, classes, inputs, max_rows=4)
        assert len(measure_latency(client, endpoint.model, "image", inputs)) == 200
    assert compare(frozen, classes, by_infer)[:2] == (0.0, 0)
    assert compare(frozen, classes, by_predict)[:2] == (0.0, 0)
    expected[7] = np.roll(expected[7], 1)
    difference, mismatches, worst = compare(frozen, classes, by_infer)
    assert (worst["sample_id"], mismatches) == (107, 1)
    assert difference == pytest.approx(abs(worst["expected"] - worst["got"]))
    assert worst["tensor"].startswith("probabilities[")
    expected[2, 3] = np.nan
    difference, _, worst = compare(frozen, classes, by_infer)
    assert (difference, worst["sample_id"], worst["tensor"]) == (1.0, 102, "probabilities[drei]")


def test_frozen_rows_are_read_or_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="cannot be read"):
        load_frozen(tmp_path, 8)
    np.savez(
        tmp_path / "parity.npz",
        sample_ids=np.arange(5),
        inputs=np.zeros((5, 3)),
        probabilities=np.ones((5, 2)),
        labels=np.ones(5, int),
    )
    assert len(load_frozen(tmp_path, 3).inputs) == 3
    assert len(load_frozen(tmp_path, 64).sample_ids) == 5
    np.savez(
        tmp_path / "parity.npz",
        sample_ids=np.arange(4),
        inputs=np.zeros((5, 3)),
        probabilities=np.ones((5, 2)),
        labels=np.ones(5, int),
    )
    with pytest.raises(StageError, match="no frozen rows"):
        load_frozen(tmp_path, 3)


def test_environment_is_of_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "a very deep folder of runs" / ("x" * 100)
    one, two = haproxy.serve_environment(folder), haproxy.serve_environment(tmp_path / "b")
    for name in ("CONFIG_FILE_LOC", "SOCKET_PATH", "SERVER_STATE_BASE", "SERVER_STATE_FILE", "METRICS_SOCKET_PATH"):
        assert one[f"RAY_SERVE_HAPROXY_{name}"] != two[f"RAY_SERVE_HAPROXY_{name}"]
    assert len(one["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"]) + 56 + len(".1234567.tmp") < 107
    home = Path(one["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).parent
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert haproxy.reap(folder) == haproxy.reap(tmp_path / "b") == []
    assert not home.exists()


def test_orphans_of_a_dead_run_are_ended_and_no_others(tmp_path: Path) -> None:
    """A stand-in with HAProxy's command line: one that ends on SIGTERM, one that does not, one of another run."""
    code = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "deaf" else signal.SIG_DFL)
print(flush=True)
time.sleep(60)
"""
    environment = haproxy.serve_environment(tmp_path / "run")
    config = environment["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]
    others = haproxy.serve_environment(tmp_path / "other")["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]

    def start(kind: str, path: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["haproxy", "-c", code, kind, "-f", path], executable=sys.executable, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    orphans = [start("mild", config), start("deaf", config)]
    stranger = start("mild", others)
    try:
        started = time.monotonic()
        haproxy.serve_environment(tmp_path / "run")
        assert time.monotonic() - started < 4
        assert [process.wait(2) for process in orphans] == [-15, -9]
        assert stranger.poll() is None
    finally:
        for process in (*orphans, stranger):
            process.kill()
            process.wait()
        haproxy.reap(tmp_path / "run")
        haproxy.reap(tmp_path / "other")


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "seen", "scope": scope})


def test_guard_keeps_headers_from_ray() -> None:
    import asyncio

    from rayml.stages.serve.guard import Guard

    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        raise AssertionError("nothing to receive")

    headers = [
        (b"x-request-id", b"\xff\xfe"),
        (b"X_Session_Id".lower(), b"\xff"),
        (b"serve_multiplexed_model_id", b"\xff"),
        (b"x-request-timeout-seconds", b"0.0001"),
        (b"authorization", b"Bearer k"),
    ]
    asyncio.run(Guard(_no_app)({"type": "http", "headers": headers}, receive, send))
    seen = dict(sent[0]["scope"]["headers"])
    assert seen.pop(b"x-request-id").isalnum()
    assert seen == {b"authorization": b"Bearer k", b"x-request-disconnect-disabled": b"?1"}
    asyncio.run(Guard(_no_app)({"type": "websocket", "headers": headers}, receive, send))
    assert sent[1] == {"type": "websocket.close"}
