"""Weights of a bucket to start from: those of the plan or an error, on a real S3 server."""

from __future__ import annotations

import secrets
from pathlib import Path
from types import SimpleNamespace

import pytest
from s3 import bucket_here, client

from rayml.errors import StageError
from rayml.plan.facts import weights_in_bucket
from rayml.stages.train.stage import START_FOLDER, place_start

BUCKET = "weights"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with bucket_here(tmp_path_factory.mktemp("seaweed"), BUCKET) as running:
        yield running


@pytest.fixture
def put(server):
    """`put(content)` writes the one file of weights; `put.at` is the folder that it is in."""
    folder = secrets.token_hex(4)

    def write(content: bytes) -> None:
        client(server).put_object(Bucket=BUCKET, Key=f"{folder}/model.safetensors", Body=content)

    write.at = f"s3://{BUCKET}/{folder}"
    return write


def step(place: str):
    """A train step that is planned for what is there now."""
    return SimpleNamespace(config={"start": {"path": place, "digest": weights_in_bucket(place).digest}})


def test_other_weights_than_those_of_the_plan_are_refused_and_leave_nothing(put, tmp_path):
    put(b"planned")
    planned, context = step(put.at), SimpleNamespace(work=tmp_path)
    put(b"another")
    with pytest.raises(StageError, match="the weights changed since the plan was made"):
        place_start(put.at, planned, context)
    assert not list((tmp_path / START_FOLDER).iterdir())
    put(b"planned")
    brought = Path(place_start(put.at, planned, context))
    assert (brought / "model.safetensors").read_bytes() == b"planned"


def test_a_run_goes_on_with_the_weights_it_has_whatever_the_bucket_holds_now(put, tmp_path):
    put(b"planned")
    planned, context = step(put.at), SimpleNamespace(work=tmp_path)
    first = place_start(put.at, planned, context)
    put(b"another")
    assert place_start(put.at, planned, context) == first
    assert (Path(first) / "model.safetensors").read_bytes() == b"planned"
