"""Hostile files where rayml reads files: code folders, YAML, packages, weights, ONNX, pictures. None runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import pytest
from evil import Touch, torch_file
from onnx import TensorProto, helper, save_model

from rayml.backends.ray.packing import pack
from rayml.errors import PlanError, SpecError, StageError
from rayml.ml.images import MAX_PIXELS, decode_upright
from rayml.ml.onnx_check import check_file
from rayml.ml.weight_files import safetensors_files
from rayml.plan.sources import list_files
from rayml.spec.data import CsvSource, ImageFolderSource, ParquetSource
from rayml.spec.load import load_job

ROOT = Path(__file__).parents[2]


def test_a_folder_of_pickled_weights_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(torch_file(Touch(tmp_path / "ran", "exec")))
    with pytest.raises(StageError, match="is a pickle"):
        safetensors_files(tmp_path)


def test_an_index_of_safetensors_does_not_lead_out_of_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    (tmp_path / "in" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../secret.safetensors"}})
    )
    with pytest.raises(StageError, match="which is not in"):
        safetensors_files(tmp_path / "in")


def test_a_web_data_set_is_no_source(tmp_path):
    """CVE-2026-57516: a .tar with .pkl members. No source takes one; a folder of them holds nothing that is read."""
    (tmp_path / "train.tar").write_bytes(b"x")
    (tmp_path / "a.pkl").write_bytes(b"x")
    for source in (
        ParquetSource(kind="parquet", path="."),
        CsvSource(kind="csv", path="."),
        ImageFolderSource(kind="image_folder", path="."),
    ):
        with pytest.raises(PlanError, match="holds no file"):
            list_files(source, tmp_path)


@pytest.mark.parametrize(
    "path",
    ["http://169.254.169.254/latest/meta-data", "https://example.org/x.csv", "ftp://x/x.csv", "file:///etc/passwd"],
)
def test_a_url_is_no_path_of_a_source(path):
    """S19: sources are files and objects of a bucket; nothing else of a job file is fetched from an address."""
    with pytest.raises(ValueError, match="nothing is read from"):
        CsvSource(kind="csv", path=path)


HOSTILE_CODE = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nraise SystemExit(0)\n"


@pytest.mark.parametrize("command", ["validate", "plan", "schema", "submit --dry-run --cluster cluster.yaml"])
def test_no_command_that_looks_imports_the_users_code(tmp_path, command):
    for name in ("rows.py", "sitecustomize.py", "yaml.py", "conftest.py", "rayml_plugin.py"):
        (tmp_path / name).write_text(HOSTILE_CODE)
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").write_text(HOSTILE_CODE)
    (tmp_path / "cluster.yaml").write_text("kind: ray\naddress: http://127.0.0.1:1\nstorage: /tmp/x\ncpus: 4\n")
    (tmp_path / "job.yaml").write_text(
        'name: x\nseed: 7\ndata:\n  source: {kind: callable, function: "rows:rows"}\n  label: y\n'
        "task: {kind: tabular_classification}\nmodel: {kind: mlp}\ntrain: {workers: 1}\ncode: .\n"
    )
    words = command.split()
    argv = [words[0], *([] if words[0] == "schema" else ["job.yaml"]), *words[1:]]
    program = Path(sys.executable).with_name("rayml")
    done = subprocess.run([str(program), *argv], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("ran")) == []


@pytest.mark.parametrize(
    "reference",
    [
        "os",
        "os:",
        ":system",
        "a-b:c",
        "../x:f",
        "/etc/x:f",
        "x.py:f",
        "a:b.c",
        "a:b()",
        "a:b;c",
        "a b:c",
        "a:b\n",
        ".a:b",
        "a..b:c",
    ],
)
def test_what_is_no_reference_is_refused(tmp_path, reference):
    (tmp_path / "job.yaml").write_text(
        f"name: x\ndata:\n  source: {{kind: callable, function: {json.dumps(reference)}}}\n  label: y\n"
        "task: {kind: tabular_classification}\n"
    )
    with pytest.raises(SpecError, match="function"):
        load_job(tmp_path / "job.yaml")


BOMBS = {
    "laughs": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)),
    "quadratic": f"a: &a [{', '.join(['x'] * 900)}]\nb: [{', '.join(['*a'] * 900)}]\n",
    "a loop": "a: &a [*a]\n",
    "deep": "a: " + "[" * 100_000,
    "deep mapping": "{a: " * 100_000,
    "large": "#" * (2**20 + 1),
    "many values": "a: [" + "1," * 400_000 + "]",
    "twice": "name: x\nname: y\n",
    "object": "name: !!python/object/apply:os.system ['touch ran']\n",
    "new": "name: !!python/object/new:os.system [touch ran]\n",
    "merge": "a: &a {x: 1}\nb:\n  <<: *a\n",
    "many anchors": "".join(f"k{n}: &a{n} x\n" for n in range(60_000)),
    "a number of a million digits": "seed: " + "9" * 1_000_000,
    "a long key": "k" * 1_000_000 + ": 1\n",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_yaml_bomb_ends_quickly(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.yaml"
    path.write_text(BOMBS[kind])
    start = time.process_time()
    with pytest.raises(SpecError):
        load_job(path)
    assert time.process_time() - start < 5
    assert not (tmp_path / "ran").exists()


def test_a_package_leaves_out_what_no_one_means_to_send(tmp_path):
    secret = [
        ".env",
        ".env.local",
        "a.pem",
        "b.key",
        "id_rsa",
        "sub/.aws/credentials",
        "sub/.ssh/id_ed25519",
        ".git/config",
    ]
    secret += ["x.p12", ".netrc", "sub/.npmrc", ".pypirc", ".kube/config", ".docker/config.json", "credentials.json"]
    for name in [*secret, "net.py", "sub/more.py"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".rayignore").write_text("!.env\n!*.pem\n!id_rsa\n!.git/\n!.aws/\n")
    assert pack("{}", tmp_path).files() == ["plan.json", "code/.rayignore", "code/net.py", "code/sub/more.py"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "..", "loop", "gone"])
def test_a_link_in_the_code_folder_is_refused(tmp_path, target):
    (tmp_path / "outside").write_text("x")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "loop").symlink_to(target)
    with pytest.raises(PlanError, match="is a link"):
        pack("{}", tmp_path / "code")


def test_what_is_no_file_is_not_packed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "net.py").write_text("x")
    assert pack("{}", tmp_path).files() == ["plan.json", "code/net.py"]


def test_names_in_a_package_stay_inside(tmp_path):
    for name in ("a\\..\\..\\b.py", "..b.py", "ü'\"$(id);.py"):
        (tmp_path / name).write_text("x")
    with zipfile.ZipFile(io.BytesIO(pack("{}", tmp_path).content)) as archive:
        archive.extractall(tmp_path / "to")
    assert all(path.resolve().is_relative_to(tmp_path / "to") for path in (tmp_path / "to").rglob("*"))


def onnx_file(folder, location):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    node = helper.make_node("Relu", ["x"], ["y"], name="node")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    save_model(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [tensor])), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize(
    "location", ["../s", "/etc/passwd", "a/../../s", "link", "linked/s", "", ".", "..", "gone", "./../s"]
)
def test_external_data_of_onnx_stays_in_its_folder(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "s").write_bytes(b"x" * 16)
    (folder / "link").symlink_to(tmp_path / "s")
    (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(StageError, match=r"outside of the model's folder|missing"):
        check_file(onnx_file(folder, location))


def png(width, height, body):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + body(chunk) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_a_picture_that_unpacks_to_gigabytes_is_refused_before_it_is_decoded(side):
    start = time.process_time()
    with pytest.raises(ValueError, match=r"are decoded|decompression bomb"):
        decode_upright(png(side, side, lambda chunk: chunk(b"IDAT", zlib.compress(bytes(10**6)))))
    assert side**2 > MAX_PIXELS
    assert time.process_time() - start < 1


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_text_in_a_picture_that_unpacks_to_gigabytes_is_refused(kind):
    packed = zlib.compress(bytes(2 * 10**8))
    data = b"a\0\1\0\0\0" + packed if kind == b"iTXt" else b"a\0\0" + packed
    row = zlib.compress(b"\0" * 5 * 4)
    picture = png(4, 4, lambda chunk: chunk(kind, data) + chunk(b"IDAT", row))
    start = time.process_time()
    with contextlib.suppress(ValueError):
        decode_upright(picture)
    assert time.process_time() - start < 2
