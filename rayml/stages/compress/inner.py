"""The steps that a ladder is made of. Each has a key of its own, so none is computed twice in any ladder or trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rayml.artifacts.manifest import Artifact, file_sha256
from rayml.ml.checkpoint import WEIGHTS_FILE, load_weights, save_weights
from rayml.plan.plan import Resources, Step, make_step
from rayml.stages.api import Context

OVERRIDES = ("epochs", "optimizer", "schedule", "batch_size", "distill", "quantize", "teachers")
"""What a pass may say of its training."""


@dataclass(frozen=True)
class InnerTraining:
    """Trains changed networks with the recipe of the job's own training, as the runner's inner step."""

    template: dict[str, Any]
    """The train step's configuration."""
    policy: dict[str, Any]
    code: str
    """Digest of the train stage's code."""
    resources: Resources
    blocks: dict[str, list[str]]
    """Kind of model to the classes whose modules are sharded as one."""
    data: Artifact
    original: Artifact
    """The uncompressed model, from which students learn."""
    teachers: dict[str, str]
    """Other runs' models: digest to folder."""
    teacher_code: str
    context: Context

    def __call__(
        self, model: dict[str, Any], start: Mapping[str, Tensor] | None, settings: dict[str, Any]
    ) -> dict[str, Tensor]:
        """The best weights by name, found or trained. See rayml.stages.compress.api.Train."""
        unknown = set(settings) - set(OVERRIDES)
        assert not unknown, f"a pass may not set {sorted(unknown)} of its training"
        settings = dict(settings)
        others = settings.pop("teachers", [])
        config = {**self.template, **settings, "model": model, "blocks": self.blocks_of(model)}
        policy = dict(self.policy)
        if start is not None:
            folder, digest = self.keep(start)
            config["start"] = {"kind": "folder", "rename": {}, "head": "keep", "digest": digest}
            policy["start"] = str(folder)
        inputs = {"data": self.data}
        if settings.get("distill"):
            inputs["teacher"] = self.teacher(settings["distill"], others)
        step = make_step("finetune", config, keys_of(inputs), self.code, policy, self.resources)
        return load_weights(self.run(step, inputs).path)

    def teacher(self, distill: dict[str, Any], others: list[str]) -> Artifact:
        """The answers of the uncompressed model and of other runs, and the model where its layers are matched."""
        matched = bool(distill.get("features") or distill.get("attention"))
        splits = ["train", "val"] if self.template["rows"] == "train_and_val" else ["train"]
        config = {"splits": splits, "keep_model": matched, "seed": self.template["seed"], "others": others}
        inputs = {"data": self.data, "model": self.original}
        policy = {"teachers": {digest: self.teachers[digest] for digest in others}}
        resources = Resources(gpus_per_worker=self.resources.gpus_per_worker)
        return self.run(make_step("teacher", config, keys_of(inputs), self.teacher_code, policy, resources), inputs)

    def keep(self, weights: Mapping[str, Tensor]) -> tuple[Path, str]:
        """A folder with first weights, and what they are."""
        folder = self.context.work / "start"
        folder.mkdir(exist_ok=True)
        save_weights(folder, dict(weights))
        digest = file_sha256(folder / WEIGHTS_FILE)
        final = self.context.work / f"start-{digest[:16]}"
        if final.exists():
            (folder / WEIGHTS_FILE).unlink()
        else:
            folder.rename(final)
        return final, digest

    def blocks_of(self, model: dict[str, Any]) -> list[str]:
        """The job's own blocks for the job's own kind of network, and what that kind proposes for another."""
        if model["kind"] == self.template["model"]["kind"]:
            return list(self.template["blocks"])
        return self.blocks[model["kind"]]

    def run(self, step: Step, inputs: Mapping[str, Artifact]) -> Artifact:
        """Find the step's artifact, or make it."""
        return execute(self.context, step, inputs)


def execute(
    context: Context, step: Step, inputs: Mapping[str, Artifact], emit: Callable[..., None] | None = None
) -> Artifact:
    """Find the artifact of a step of the stage's own, or make it."""
    assert context.execute is not None, "a ladder is walked by a runner"
    return context.execute(step, inputs, emit or context.emit)


def keys_of(inputs: Mapping[str, Artifact]) -> dict[str, str]:
    return {name: artifact.manifest.key for name, artifact in inputs.items()}
