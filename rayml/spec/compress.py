"""The `compress` section: a ladder of passes that make the model smaller and faster, and what they may cost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayml.spec.base import Auto, Bytes, Spec, Text
from rayml.spec.model import CallableModel, Mlp, SmallCnn, TorchvisionModel, Transformer
from rayml.spec.optimizer import Optimizer
from rayml.spec.schedule import Schedule
from rayml.spec.tune import ObjectiveSpec, TuneSpec
from rayml.spec.words import listed

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class FineTuneSpec(Spec):
    """Training of the changed network. What is not written is as in the `train` section."""

    epochs: Annotated[int, Field(ge=0)] | Auto = "auto"
    """`auto` is a third of train's, at least one; for distill all. 0 leaves the weights as the pass made them."""
    optimizer: Optimizer | None = None
    """How a gradient becomes a step."""
    schedule: Schedule | None = None
    """How the learning rate changes."""
    batch_size: Annotated[int, Field(gt=0)] | None = None
    """Rows of one optimizer step over all workers together."""
    teacher: Literal["uncompressed", "none"] = "uncompressed"
    """Whether the network learns the uncompressed model's answers beside the labels (Hinton et al., 1503.02531)."""
    temperature: float = Field(default=2.0, gt=0, le=100)
    """By which the logits of both are divided before the softmax."""
    hard: float = Field(default=0.3, ge=0, le=1)
    """Share of the loss that is on the labels; the rest is on the teacher's answers."""


class Derived(Spec):
    """The job's own network, narrower and shallower."""

    kind: Literal["derived"]
    width: float = Field(default=0.5, gt=0, le=1)
    """Share of the channels, units or token numbers of each layer."""
    depth: float = Field(default=1.0, gt=0, le=1)
    """Share of the hidden layers or blocks."""


class Same(Spec):
    """The job's own network with new weights: self-distillation (Furlanello et al., arXiv 1805.04770)."""

    kind: Literal["same"]


Student = Annotated[
    Derived | Same | SmallCnn | Mlp | Transformer | TorchvisionModel | CallableModel, Field(discriminator="kind")
]


class MatchSpec(Spec):
    """What is matched inside the networks, and how much it counts."""

    layers: dict[Text, Text] | Auto = "auto"
    """Name of a module of the teacher to one of the student, such as `network.blocks.1`. `auto` is the last of each."""
    weight: float = Field(default=1.0, gt=0)
    """Beside the loss on the answers."""


class Distill(Spec):
    """A smaller network learns from the trained one."""

    kind: Literal["distill"]
    student: Student = Derived(kind="derived")
    """The network that learns."""
    temperature: float = Field(default=4.0, gt=0, le=100)
    """By which the logits of both are divided before the softmax."""
    hard: float = Field(default=0.1, ge=0, le=1)
    """Share of the loss that is on the labels; the rest is on the teacher's answers."""
    teachers: tuple[Text, ...] = ()
    """Other runs whose models answer too; the student learns the mean of the probabilities."""
    features: MatchSpec | None = None
    """Activations too, through a linear projection where the shapes differ (Romero et al., arXiv 1412.6550)."""
    attention: MatchSpec | None = None
    """Where activations are large in the image or among the tokens (Zagoruyko and Komodakis, arXiv 1612.03928)."""
    finetune: FineTuneSpec = FineTuneSpec()
    """Its training. Temperature and hard stand above."""


class Prune(Spec):
    """Channels, units and heads are taken out, or weights set to 0."""

    kind: Literal["prune"]
    structured: Share | None = None
    """Share of the channels, units or heads that go. The layers are smaller afterwards, and so is the file."""
    unstructured: Share | None = None
    """Share of single weights that are set to 0. No runtime here gains from it; the report says so."""
    pattern: Literal["2:4"] | None = None
    """2 of each 4 weights are set to 0. Only GPUs of NVIDIA gain from it; the report says so."""
    importance: Literal["magnitude", "taylor", "bn_scale"] = "magnitude"
    """What a channel is worth: norm of its weights (arXiv 1608.08710), change of the loss (arXiv 1906.10771), or the
    scale of its batch norm (arXiv 1708.06519)."""
    scope: Literal["global", "layer"] = "layer"
    """Whether channels (or single weights, with unstructured) compete within their layer, or all over the network."""
    rounds: int = Field(default=1, ge=1, le=20)
    """The share is taken in so many parts, with fine-tuning after each."""
    multiple: Annotated[int, Field(ge=1)] | Auto = "auto"
    """What is left of a layer is a multiple of this. `auto` is 8 where a layer has 32 channels or more, else 1."""
    keep: tuple[Text, ...] = ()
    """Patterns of the names of layers whose outputs all stay. What comes into them may become less."""
    finetune: FineTuneSpec = FineTuneSpec()
    """After each round, with structured. Weights that were set to 0 are measured as they are, and refused."""

    @model_validator(mode="after")
    def _one_way(self) -> Prune:
        given = [name for name in WAYS if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{listed(given, 'and')} are written" if given else "nothing says what goes"
            raise ValueError(f"{found}; write exactly one of {listed(WAYS)}")
        if self.structured is None and self.importance != "magnitude":
            raise ValueError(f"{given[0]} goes by magnitude; {self.importance} ranks whole channels, with structured")
        return self


WAYS = ("structured", "unstructured", "pattern")


class CalibrationSpec(Spec):
    """How the range of each activation is found, on rows of the training split."""

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    """All values, those whose loss of information is least (KL), or a share of them."""
    rows: int = Field(default=256, ge=1)
    """Rows of the training split that are read, spread evenly over it."""
    percentile: float = Field(default=99.99, gt=50, le=100)
    """Share in percent of an activation's values that the range holds, with method: percentile."""


class Quantize(Spec):
    """Fewer bits for each number."""

    kind: Literal["quantize"]
    scheme: Literal["int8_static", "int8_dynamic", "int8_qat", "int8_weights", "int4_weights", "fp16", "bf16"] = (
        "int8_static"
    )
    """int8_static: weights and activations, ranges from calibration. int8_qat: the same after training with it.
    int8_dynamic: ranges at each call. *_weights: blocks of weights only. fp16, bf16: half the bits of every float."""
    calibration: CalibrationSpec = CalibrationSpec()
    activations: Literal["uint8", "int8"] | Auto = "auto"
    """`auto` is uint8, for which ONNX Runtime has a kernel of every convolution."""
    per_channel: bool = True
    """One scale for each channel of a weight, and not for each weight."""
    reduce_range: bool | Auto = "auto"
    """7 bits for weights. `auto` is yes on processors without VNNI, whose sums of int8 products saturate."""
    keep: tuple[Text, ...] | Auto = "auto"
    """Names or patterns of nodes that stay float. `auto`: those whose error, measured one by one, costs agreement."""
    block: Literal[16, 32, 64, 128, 256] = 32
    """Weights that share a scale, for int8_weights and int4_weights."""
    finetune: FineTuneSpec = FineTuneSpec()
    """Of int8_qat."""


class Factorize(Spec):
    """Linear layers and convolutions become two thin ones, by the singular values of their weights."""

    kind: Literal["factorize"]
    energy: Share | None = None
    """Share of the squared singular values that is kept; decides the rank of each layer."""
    rank: Share | None = None
    """Share of the full rank that is kept, the same in every layer."""
    keep: tuple[Text, ...] = ()
    """Patterns of the names of layers that stay as they are."""
    finetune: FineTuneSpec = FineTuneSpec()

    @model_validator(mode="after")
    def _one_way(self) -> Factorize:
        if (self.energy is None) == (self.rank is None):
            raise ValueError("write exactly one of `energy` and `rank`")
        return self


class ShareBlocks(Spec):
    """Blocks of the same shape use the same weights (Lan et al., arXiv 1909.11942)."""

    kind: Literal["share"]
    every: int = Field(default=2, ge=2)
    """So many blocks after each other become one that runs as often."""
    finetune: FineTuneSpec = FineTuneSpec()


class Optimize(Spec):
    """ONNX Runtime's own rewriting of the graph, written into the file, and the session settings that are fastest."""

    kind: Literal["optimize"]
    level: Literal["basic", "extended", "all"] = "extended"
    """basic: constants folded, nodes fused. extended: fusions for processors. all: layouts of this machine."""
    transformer: bool | Auto = "auto"
    """Fuse attention, layer norm and GELU. `auto` where the model has attention."""
    session: bool = True
    """Measure which threads, arena and execution mode are fastest on this machine."""


Pass = Annotated[Distill | Prune | Quantize | Factorize | ShareBlocks | Optimize, Field(discriminator="kind")]


class CompressBudgetSpec(Spec):
    """What the result has to keep to, measured on the validation split, in ONNX Runtime, on this machine."""

    metric_drop: float | None = Field(default=None, ge=0, le=1)
    """How much accuracy may be lost against the uncompressed model: 0.01 is one point."""
    agreement: float | None = Field(default=None, gt=0, le=1)
    """Share of the rows that have to get the uncompressed model's answer."""
    size: Bytes | None = None
    """Of model.onnx."""
    p50_ms: Positive | None = None
    """Median of one row on one thread."""
    p95_ms: Positive | None = None
    """95th percentile of the same."""
    ram: Bytes | None = None
    """Peak of a process that has loaded the model and answers, above that of one that has not."""


class CompressSearchSpec(TuneSpec):
    """A sweep over the ladder alone: the keys of its space start below `compress`, as `ladder.1.structured`."""

    objectives: Annotated[tuple[ObjectiveSpec, ...], Field(min_length=1, max_length=4)] = (
        ObjectiveSpec(metric="compress/accuracy"),
        ObjectiveSpec(metric="size_bytes"),
        ObjectiveSpec(metric="latency_p50_ms"),
    )
    """The first one is what a scheduler judges by."""


class CompressSpec(Spec):
    """Passes in order, each a candidate that is measured beside the uncompressed model."""

    ladder: Annotated[tuple[Pass, ...], Field(min_length=1)]
    """What each pass makes, the next one goes on from, unless it brought too little."""
    min_gain: float = Field(default=0.05, ge=0, lt=1)
    """A rung that makes the file smaller by less than this share, and the median latency too, is rolled back."""
    budget: CompressBudgetSpec = CompressBudgetSpec(metric_drop=0.01, agreement=0.95)
    """The best candidate inside wins. None inside ends the run with exit code 3."""
    search: CompressSearchSpec | None = None
    """Try other values of the ladder's keys, on the whole cluster, and go on with what was found best."""
    prefer: Literal["size", "latency"] | Auto = "auto"
    """Which candidate inside the budget is best. `auto` is latency where the budget has one, and size otherwise."""
