"""Fine-tuning, in the `train` section: where the first weights come from, which stay, and adapters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayml.spec.base import Auto, Location, Spec, Text
from rayml.spec.model import Model
from rayml.spec.words import show


class _Start(Spec):
    rename: dict[Text, Text] = Field(default_factory=dict)
    """Pattern of a name in the weights to its name in the model; a `*` there stands for what the `*` here matched.
    What has no rule keeps its name, and a prefix such as `module.` is found without one."""
    head: Literal["keep", "replace"] = "keep"
    """`replace` gives the last layer new random weights, for other classes than those it was trained on."""


class RunStart(_Start):
    """The best weights of another run of rayml."""

    kind: Literal["run"]
    run: Text
    """Its id, as `rayml runs` shows it."""


class FolderStart(_Start):
    """safetensors in a folder, in one file or in several with a `*.safetensors.index.json` as Hugging Face has it."""

    kind: Literal["folder"]
    path: Location
    """The folder or file, relative to the job file, or `s3://BUCKET/PATH`."""


class TorchvisionStart(_Start):
    """The weights that torchvision publishes for the network of the same name."""

    kind: Literal["torchvision"]
    weights: Text = "DEFAULT"
    """As in torchvision: DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2, ..."""


class HubStart(_Start):
    """safetensors of a model of the Hugging Face hub. With HF_HUB_OFFLINE=1 only what was downloaded before is used."""

    kind: Literal["hub"]
    name: Text
    """`organization/model`."""
    revision: Text = "main"
    """Branch, tag or commit. Only a commit always means the same weights."""


Start = Annotated[RunStart | FolderStart | TorchvisionStart | HubStart, Field(discriminator="kind")]


class FreezeSpec(Spec):
    """Parameters that are not trained, or not from the first epoch on."""

    pattern: Text
    """Matched against the whole name of a parameter, as `network.layer1.0.conv1.weight`; `*` stands for any text."""
    until_epoch: Annotated[int, Field(ge=1)] | None = None
    """Epochs for which they stay as they are; without it, to the end."""


class _Adapter(Spec):
    targets: Literal["all"] | Annotated[tuple[Text, ...], Field(min_length=1)] = "all"
    """Patterns of the names of layers, such as `*.q`. `all` is every linear layer and every convolution that is not
    grouped, but for the last layer."""
    train_head: bool = True
    """Train the last layer itself, too. Its weights are random where the classes are new."""


class _LowRank(_Adapter):
    rank: int = Field(default=8, ge=1, le=4096)
    """Columns of the smaller matrices: more of them can change the layer in more ways."""
    alpha: Annotated[float, Field(gt=0)] | Auto = "auto"
    """The change is multiplied by alpha / rank. `auto` is twice the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter that is left out in each training step: of its inputs for lora and dora, else of it."""


class LoraAdapter(_LowRank):
    """A layer's change as a product of two small matrices (Hu et al., arXiv 2106.09685)."""

    kind: Literal["lora"]


class DoraAdapter(_LowRank):
    """LoRA of the direction of a layer's weights, with a magnitude of its own (Liu et al., arXiv 2402.09353)."""

    kind: Literal["dora"]


class LohaAdapter(_LowRank):
    """A layer's change as a Hadamard product of two low-rank matrices (Hyeon-Woo et al., arXiv 2108.06098)."""

    kind: Literal["loha"]


class LokrAdapter(_LowRank):
    """A layer's change as a Kronecker product (Yeh et al., arXiv 2309.14859)."""

    kind: Literal["lokr"]


class OftAdapter(_Adapter):
    """A rotation of a layer's weights, block by block (Qiu et al., arXiv 2306.07280)."""

    kind: Literal["oft"]
    block_size: int = Field(default=32, ge=2, le=4096)
    """Inputs that are rotated together; brought to the nearest size that divides a layer's inputs."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the blocks that are left as they were in each training step."""


class Ia3Adapter(_Adapter):
    """One factor for each output of a layer (Liu et al., arXiv 2205.05638)."""

    kind: Literal["ia3"]


Adapter = Annotated[
    LoraAdapter | DoraAdapter | LohaAdapter | LokrAdapter | OftAdapter | Ia3Adapter, Field(discriminator="kind")
]


def finetune_misfits(
    model: Model, start: Start | None, freeze: tuple[FreezeSpec, ...], adapter: Adapter | None
) -> list[tuple[str, str]]:
    """What one choice makes impossible for another, as (path, sentence)."""
    problems = []
    if freeze and adapter is not None:
        problems.append(("train.freeze", "train.adapter freezes all weights but its own; leave one of the two out"))
    if start is None:
        return problems
    for pattern, replacement in start.rename.items():
        if replacement.count("*") > pattern.count("*"):
            what = f"{show(replacement)} has more `*` than {show(pattern)}; each stands for what one of those matched"
            problems.append(("train.start.rename", what))
    if start.kind != "torchvision":
        return problems
    if model.kind != "torchvision":
        problems.append(("train.start.kind", f"torchvision has no weights for {model.kind}; write folder, hub or run"))
    elif model.norm == "group":
        problems.append(("model.norm", "torchvision's weights are for batch norm; write batch, or leave it out"))
    elif model.small_images:
        what = "torchvision's weights have the larger first convolution; leave it out, and set model.resize"
        problems.append(("model.small_images", what))
    return problems
