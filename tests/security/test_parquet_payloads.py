"""S17: files whose Arrow extension types carry pickles go through the data step's own readers, and nothing runs.

The readers run in a process of their own that has imported Ray Data, as the data step has: its types are registered
then, and Arrow hands them what a file says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import payloads
import pyarrow as pa
import pytest
from evil import EVIL, Touch

from rayml.artifacts.switches import UNSAFE, refuse_unsafe_switches
from rayml.errors import StageError

PROGRAM = """
import json, sys
import ray.data
import pyarrow.parquet as pq
from pathlib import Path
from rayml.plan.sources import list_files
from rayml.spec.data import ParquetSource
from rayml.stages.data.config import DataConfig
from rayml.stages.data.tables import read_parquet_source

source = ParquetSource(kind="parquet", path="rows.parquet")
config = DataConfig.model_validate({
    "source": source, "label": "label", "image": {}, "columns": "auto", "normalize": "none", "missing": "error",
    "split": {}, "shard_rows": 9, "seed": 1, "task": "image_classification", "fingerprint": "x"})

def read(folder):
    if sys.argv[1] == "bare":
        file = pq.ParquetFile(folder / "rows.parquet")
        return str([row for batch in file.iter_batches() for row in batch.to_pylist()])
    reading = read_parquet_source(list_files(source, folder), config)
    return f"rows {sum(len(block) for each in reading.tasks for block in each())}"

def said(folder):
    try:
        return read(folder)
    except Exception as error:
        return f"{type(error).__name__} {error}"

print(json.dumps([said(Path(name)) for name in sys.argv[2:]]))
"""


def read(how, *folders, **environment):
    """What the program says of each folder: `rows N`, or the error's name and words."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, *map(str, folders)],
        **{"env": {**os.environ, **environment}, "capture_output": True, "text": True, "timeout": 90},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Payload to its folder, and what the data step's reader says of it."""
    folders = {kind: tmp_path_factory.mktemp("payload") for kind in payloads.PAYLOADS}
    for kind, folder in folders.items():
        payloads.write(folder / "rows.parquet", payloads.PAYLOADS[kind](folder / "ran"))
    return dict(zip(folders, zip(folders.values(), read("rayml", *folders.values()), strict=True), strict=True))


@pytest.mark.parametrize("kind", payloads.PAYLOADS)
def test_a_pickle_in_an_extension_type_is_not_run(told, kind):
    folder, said = told[kind]
    assert said.startswith(("rows 4", "StageError")), said
    assert "AUTOLOAD" not in said, "nobody is told to let it run"
    assert not (folder / "ran").exists()


def test_an_image_is_read_whatever_stands_beside_its_bytes(told):
    """A reader that makes an object of each struct runs what stands in the place of the path."""
    folder, said = told["objects within the image"]
    assert said == "rows 4"
    assert not (folder / "ran").exists()
    read("bare", folder)
    assert (folder / "ran").exists(), "the probe is sharp"
    (folder / "ran").unlink()


SWITCH = "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"


def test_the_switch_that_would_run_it_is_refused(tmp_path):
    folders = [tmp_path / str(number) for number in range(len(payloads.TENSORS))]
    for name, folder in zip(payloads.TENSORS, folders, strict=True):
        folder.mkdir()
        payloads.write(folder / "rows.parquet", payloads.PAYLOADS[f"{name} beside it"](folder / "ran"))
    for said in read("rayml", *folders, **{SWITCH: "1"}):
        assert said.startswith("StageError") and f"{SWITCH} is on" in said and f"unset {SWITCH}" in said
    assert not any((folder / "ran").exists() for folder in folders)
    read("bare", *folders, **{SWITCH: "1"})
    assert all((folder / "ran").exists() for folder in folders), "the probe is sharp"


@pytest.mark.parametrize("name", UNSAFE)
def test_each_unsafe_switch_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with pytest.raises(StageError, match=f"{name} is on"):
        refuse_unsafe_switches()
    monkeypatch.setenv(name, "0")
    refuse_unsafe_switches()


def test_a_run_does_not_start_with_such_a_switch(tmp_path):
    """It ends before Ray is started, and says which switch it was."""
    (tmp_path / "rows.csv").write_text("a,label\n" + "1,x\n2,y\n" * 20)
    (tmp_path / "job.yaml").write_text(
        "name: x\nseed: 7\ndata:\n  source: {kind: csv, path: rows.csv}\n  label: label\n"
        "task: {kind: tabular_classification}\n"
    )
    program = Path(sys.executable).with_name("rayml")
    done = subprocess.run(
        [str(program), "run", "job.yaml", "--home", str(tmp_path / "home"), "--json"],
        **{"cwd": tmp_path, "env": {**os.environ, SWITCH: "1"}, "capture_output": True, "text": True, "timeout": 90},
        check=False,
    )
    assert done.returncode == StageError.exit_code, done.stderr
    assert f"{SWITCH} is on" in done.stdout + done.stderr
    assert json.loads(done.stdout)["steps"] == []


def arrow_shard(path, columns):
    batch = payloads.table(*columns).to_batches()[0]
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def shard_columns(ran, place):
    """A canonical shard with a column of pickles in the place of one of its three."""
    numbers = payloads.plain("sample_id", range(payloads.ROWS)), payloads.plain("label", range(payloads.ROWS))
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(
        payloads.np.zeros((payloads.ROWS, 1), payloads.np.float32), dim_names=["x"]
    )
    right = {
        "sample_id": numbers[0],
        "feature": (pa.field("feature", tensors.type), tensors),
        "label": numbers[1],
    }
    if place == "within feature":
        values = pa.array([EVIL["cloudpickle"](Touch(ran))] * payloads.ROWS, pa.large_binary())
        inner = payloads.extension(payloads.OBJECT, pa.large_binary(), b"", "item")
        storage = pa.FixedSizeListArray.from_arrays(values, type=pa.list_(inner, 1))
        told = {"ARROW:extension:name": "arrow.fixed_shape_tensor", "ARROW:extension:metadata": '{"shape":[1]}'}
        return [right["sample_id"], (pa.field("feature", storage.type, metadata=told), storage), right["label"]]
    return [*(value for name, value in right.items() if name != place), payloads.object_column(ran, place)]


SHARDS = """
import sys
import ray.data
import pyarrow as pa
from pathlib import Path
from rayml.ml.shards import ShardSet

try:
    if sys.argv[1] == "bare":
        with pa.memory_map("train-00000.arrow") as file:
            pa.ipc.open_file(file).get_batch(0).to_pylist()
    else:
        ShardSet.open(Path.cwd(), "train")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("place", ["sample_id", "feature", "label", "within feature"])
def test_a_shard_of_pickled_objects_is_refused(tmp_path, place):
    ran = tmp_path / "ran"
    arrow_shard(tmp_path / "train-00000.arrow", shard_columns(ran, place))
    for how in ("rayml", "bare"):
        done = subprocess.run(
            [sys.executable, "-c", SHARDS, how], cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False
        )
        if how == "rayml":
            assert done.stdout.startswith("StageError"), done.stdout + done.stderr
            assert not ran.exists()
    assert ran.exists() or place == "within feature", "the probe is sharp"
