"""The ladder walked with a real store: rungs are kept, rolled back, found again, and never half there (F19)."""

from __future__ import annotations

import copy
import json
import shutil

import onnx
import pytest
import torch
from contract.store import manifest
from onnx import numpy_helper
from stages.compress.passes import MLP, make_candidate
from stages.train.ranks import make_shards

from rayml.artifacts.manifest import Artifact
from rayml.artifacts.store import LocalStore
from rayml.errors import GateError
from rayml.plan.plan import ClusterPlan, Plan, Resources, make_step
from rayml.run.making import InnerSteps, Maker
from rayml.stages.compress import rung as rung_module
from rayml.stages.compress.api import Made

LADDER = [{"kind": "share"}, {"kind": "optimize"}]
NO_BUDGET = {"metric_drop": None, "agreement": None, "size": None, "p50_ms": None, "p95_ms": None, "ram": None}


class World:
    """A trained model in a store, and a ladder whose passes are told what to do by the test."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        data = make_shards(folder / "data")
        train = make_candidate(folder / "train", data, MLP).folder
        self.inputs = {
            "data": Artifact(manifest("d" * 64, "data", config={"fingerprint": "f"}), data),
            "train": Artifact(manifest("t" * 64, "train"), train),
        }
        self.store = LocalStore(folder / "artifacts")
        self.run_folder = folder / "runs" / "run-1"
        self.run_folder.mkdir(parents=True)
        self.events, self.ran = [], []
        self.passes = {"share": smaller(0.5), "optimize": smaller(0.25)}
        monkeypatch.setattr(rung_module, "load_pass", lambda kind: lambda work: self.run_pass(kind, work))

    def run_pass(self, kind, work):
        self.ran.append(kind)
        return self.passes[kind](work)

    def compress(self, **changes):
        config = {
            "name": "m",
            "seed": 0,
            "opset": 20,
            "ladder": LADDER,
            "min_gain": 0.05,
            "budget": NO_BUDGET,
            "prefer": "size",
            **changes,
        }
        inputs = {"data": "d" * 64, "train": "t" * 64}
        policy = {"train": {}, "teachers": {}, "tolerance": 1e-4}
        step = make_step("compress", config, inputs, "code", policy, Resources())
        plan = Plan(
            rayml="0",
            job="m",
            seed=0,
            job_file="m.yaml",
            base=str(self.folder),
            code=None,
            cluster=ClusterPlan(cpus=1, gpus=0, object_store=1),
            steps=(step,),
        )
        assert InnerSteps(plan, self.store, self.run_folder)
        emit = lambda kind, **fields: self.events.append((kind, fields))  # noqa: E731
        artifact, _, _ = Maker(plan, self.store, self.run_folder).attempt(step, self.inputs, emit, lambda: None)
        return artifact, json.loads((artifact.path / "compress.json").read_text())

    def rungs(self):
        return [path for path in (self.store.root / "rung").iterdir() if (path / "manifest.json").exists()]


def smaller(share):
    """A pass that says less of itself in the file: a stand-in for one that makes it smaller."""

    def run(work):
        model = onnx.load(work.parent.onnx)
        ballast = b"x" * int(share * 100_000)
        kept = [entry for entry in model.metadata_props if entry.key != "ballast"]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        if ballast:
            model.metadata_props.add(key="ballast", value=ballast.decode())
        onnx.save(model, work.out / "model.onnx")
        return Made(facts={"share": share})

    return run


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def test_what_brings_nothing_is_rolled_back_and_the_next_pass_goes_on_from_before(world):
    seen = []

    def noting(work):
        seen.append(work.parent.onnx.stat().st_size)
        return Made() if shutil.copyfile(work.parent.onnx, work.out / "model.onnx") else None

    world.passes = {"share": smaller(3.0), "optimize": noting}
    artifact, document = world.compress(min_gain=0.9)
    assert [rung["status"] for rung in document["rungs"]] == ["kept", "rolled back", "rolled back"]
    assert "brought too little" in document["rungs"][1]["why"]
    assert seen == [document["rungs"][0]["row"]["bytes"]], "the second pass had the uncompressed file"
    assert document["chosen"] == "uncompressed"
    assert artifact.manifest.metrics["times_smaller"] == 1.0


def test_zeros_in_place_are_never_the_result(world):
    world.passes["share"] = lambda work: Made(
        config=work.parent.config,
        weights=work.parent.network(work.schema, None).state_dict(),
        masked=True,
    )
    _, document = world.compress(ladder=[{"kind": "share"}])
    assert [rung["status"] for rung in document["rungs"]] == ["kept", "refused"]
    assert document["chosen"] == "uncompressed"


def test_nothing_inside_the_budget_is_a_gate_that_failed_and_another_budget_makes_no_rung_again(world):
    with pytest.raises(GateError, match=r"none of \d candidates is inside the budget; the nearest is"):
        world.compress(budget={**NO_BUDGET, "size": 10}, min_gain=0.0)
    made = list(world.ran)
    assert made == ["share", "optimize"]
    world.compress(min_gain=0.0)
    assert world.ran == made


@pytest.mark.parametrize("at", ["share", "optimize"])
def test_a_ladder_that_is_killed_leaves_whole_rungs_and_goes_on(world, at):
    good = world.passes[at]

    def killed(work):
        (work.out / "model.onnx").write_bytes(b"half")
        raise KeyboardInterrupt

    world.passes[at] = killed
    with pytest.raises(KeyboardInterrupt):
        world.compress(min_gain=0.0)
    assert not (world.store.root / "compress").exists() or not any(
        (path / "manifest.json").exists() for path in (world.store.root / "compress").iterdir()
    )
    whole = len(world.rungs())
    assert whole == {"share": 1, "optimize": 2}[at]
    world.passes[at] = good
    world.ran.clear()
    _, document = world.compress(min_gain=0.0)
    assert world.ran == LADDER_KINDS[LADDER_KINDS.index(at) :], "what was whole was not made again"
    assert len(document["rungs"]) == 3


LADDER_KINDS = [each["kind"] for each in LADDER]


def damage(change):
    """A pass that writes a file whose answers are wrong."""

    def run(work):
        model = onnx.load(work.parent.onnx)
        change(model)
        onnx.save(model, work.out / "model.onnx")
        return Made()

    return run


def turn_the_last_layer_around(model):
    for tensor in model.graph.initializer:
        if "network.7." in tensor.name:
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))


def test_a_pass_that_breaks_the_answers_is_outside_the_budget_and_the_layer_is_named(world):
    world.passes["share"] = damage(turn_the_last_layer_around)
    _, document = world.compress(ladder=[{"kind": "share"}], budget={**NO_BUDGET, "agreement": 0.99}, min_gain=0.0)
    broken = document["rungs"][1]
    assert broken["row"]["agreement"]["value"] < 0.99
    assert broken["diverges"]["op"] in ("Gemm", "MatMul")
    assert document["chosen"] == "uncompressed"


def test_a_file_that_does_not_answer_as_its_network_ends_the_run_and_names_the_layer(world, monkeypatch):
    honest = rung_module.write_onnx

    def with_a_transposed_weight(model, *arguments):
        model = copy.deepcopy(model)
        linear = [each for each in model.modules() if isinstance(each, torch.nn.Linear)][1]
        square = min(linear.weight.shape)
        with torch.no_grad():
            linear.weight[:square, :square] = linear.weight[:square, :square].T.clone()
        honest(model, *arguments)

    monkeypatch.setattr(rung_module, "write_onnx", with_a_transposed_weight)
    with pytest.raises(GateError, match=r"uncompressed: .* from the network .*diverges_at network\.4"):
        world.compress()
    assert world.ran == [], "nothing goes on from a file that is wrong"
    with pytest.raises(GateError, match="from the network"):
        world.compress()
