"""The `train.optimizer` section: how a gradient becomes a step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayml.spec.base import Fits, Spec

Above0 = Annotated[float, Field(gt=0)]
AtLeast0 = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Share, Share]
Pattern = Annotated[str, Field(min_length=1), Fits("a pattern of parameter names such as `network.0.*` or `*.bias`")]


class LrFactor(Spec):
    """Another learning rate for some of the parameters."""

    match: Pattern
    """Pattern of their names."""
    factor: AtLeast0
    """Times the learning rate of the others."""


class ByParameter(Spec):
    """What every optimizer takes: how fast it learns, and which parameters are treated differently from the others."""

    kind: str
    """The optimizer's name."""
    lr: Above0
    """Learning rate."""
    weight_decay: AtLeast0
    """Pull of the weights towards 0."""
    no_decay: tuple[Pattern, ...] | Literal["vectors"] = ()
    """Patterns of the parameters without weight decay. `vectors` is all of one dimension: biases and scales of norms.
    Every parameter decays where nothing is said, as in torch."""
    lr_by: tuple[LrFactor, ...] = ()
    """Discriminative learning rates. The first entry that matches a parameter counts for it."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each layer learns by this factor less than the layer after it (ULMFiT, arXiv 1801.06146; ELECTRA, 2003.10555)."""


class Sgd(ByParameter):
    """Stochastic gradient descent with momentum (Sutskever et al., ICML 2013)."""

    kind: Literal["sgd"]
    lr: Above0 = 0.1
    """Learning rate."""
    momentum: Share = 0.9
    """Share of the last step that is kept in the next."""
    nesterov: bool = False
    """Take the gradient where the momentum leads to. Needs momentum."""
    weight_decay: AtLeast0 = 0.0
    """L2 penalty, added to the gradient."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Sgd:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Adam(ByParameter):
    """Adam (Kingma and Ba, arXiv 1412.6980)."""

    kind: Literal["adam"]
    lr: Above0 = 1e-3
    """Learning rate."""
    weight_decay: AtLeast0 = 0.0
    """L2 penalty, added to the gradient; adamw has the one that does not depend on it."""
    betas: Betas = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: Above0 = 1e-8
    """Added to the root of the mean square, which may be 0."""


class AdamW(ByParameter):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

    kind: Literal["adamw"]
    lr: Above0 = 1e-3
    """Learning rate."""
    weight_decay: AtLeast0 = 0.01
    """Decoupled: each step also shrinks the weights by lr times this."""
    betas: Betas = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: Above0 = 1e-8
    """Added to the root of the mean square, which may be 0."""


class Adafactor(ByParameter):
    """Adafactor (Shazeer and Stern, arXiv 1804.04235): the memory of a row and a column in place of a matrix."""

    kind: Literal["adafactor"]
    lr: Above0 = 1e-2
    """The largest step, relative to the size of the weights; it falls with 1 / root of the steps by itself."""
    weight_decay: AtLeast0 = 0.0
    """Decoupled: each step also shrinks the weights by lr times this."""
    beta2_decay: float = Field(default=-0.8, lt=0)
    """Power of the step by which the memory of the squared gradient grows."""
    clip: float = Field(default=1.0, ge=1)
    """Largest root mean square of a step before it is scaled (d in the paper)."""


class Lamb(ByParameter):
    """LAMB (You et al., arXiv 1904.00962): Adam for large batches, each step scaled to the size of its weights."""

    kind: Literal["lamb"]
    lr: Above0 = 1e-3
    """Learning rate."""
    weight_decay: AtLeast0 = 0.01
    """Part of the step before it is scaled. What `no_decay` names is not scaled either, as in the authors' code."""
    betas: Betas = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: Above0 = 1e-6
    """Added to the root of the mean square, which may be 0."""


class Lars(ByParameter):
    """LARS (You et al., arXiv 1708.03888): momentum for large batches, each step scaled to the size of its weights."""

    kind: Literal["lars"]
    lr: Above0 = 1.0
    """Learning rate. Part of the momentum, as in the paper."""
    momentum: Share = 0.9
    """Share of the last step that is kept in the next."""
    weight_decay: AtLeast0 = 1e-4
    """L2 penalty. What `no_decay` names is not scaled either, as in the authors' code."""
    trust: Above0 = 1e-3
    """Size of a step relative to the size of the weights, at a learning rate of 1."""


class Lion(ByParameter):
    """Lion (Chen et al., arXiv 2302.06675): the sign of the momentum. Takes a lr 3 to 10 times smaller than AdamW."""

    kind: Literal["lion"]
    lr: Above0 = 1e-4
    """Learning rate."""
    weight_decay: AtLeast0 = 0.0
    """Decoupled: each step also shrinks the weights by lr times this; 3 to 10 times that of AdamW."""
    betas: Betas = (0.9, 0.99)
    """Share of the momentum in the step, and its decay."""


class Muon(ByParameter):
    """Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon): orthogonal steps for hidden layers' matrices."""

    kind: Literal["muon"]
    lr: Above0 = 0.02
    """Learning rate of the matrices."""
    weight_decay: AtLeast0 = 0.1
    """Decoupled: each step also shrinks the matrices by lr times this."""
    momentum: Share = 0.95
    """Share of the last step that is kept in the next."""
    nesterov: bool = True
    """Take the gradient where the momentum leads to."""
    iterations: int = Field(default=5, ge=1, lt=100)
    """Newton-Schulz iterations that make a step orthogonal."""
    scale: Literal["original", "match_rms_adamw"] = "original"
    """How a step grows with the shape: as Jordan wrote it, or so that the lr and weight decay of AdamW fit
    (Liu et al., arXiv 2502.16982)."""
    not_on: tuple[Pattern, ...] | Literal["ends"] = "ends"
    """Patterns of the matrices that AdamW trains. `ends` is the last one, which is the output layer, and `*embed*`."""
    adamw_lr: Above0 = 1e-3
    """Learning rate of AdamW for those, and for everything that is not a matrix: biases, norms, convolutions."""
    adamw_weight_decay: AtLeast0 = 0.01
    """Weight decay of AdamW for the same."""
    adamw_betas: Betas = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square, in AdamW."""


NEEDS_WHOLE = ("adafactor", "muon")
"""Those that cannot train sharded parameters: they look at whole rows and columns, and torch has no sharded form."""

Optimizer = Annotated[Sgd | Adam | AdamW | Adafactor | Lamb | Lars | Lion | Muon, Field(discriminator="kind")]
