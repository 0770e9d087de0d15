"""The `tune` section: which keys are searched, by what, for how long, and what counts as best."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rayml.spec.base import Auto, Fits, Seconds, Spec, Text
from rayml.spec.evaluate import Gate
from rayml.spec.words import listed

Metric = Literal[
    "val/accuracy",
    "val/loss",
    "train/loss",
    "samples_per_s",
    "compress/accuracy",
    "compress/agreement",
    "size_bytes",
    "latency_p50_ms",
    "latency_p95_ms",
]

EPOCH_METRICS = ("val/accuracy", "val/loss", "train/loss", "samples_per_s")
"""What training reports after each epoch; a scheduler can judge by these."""
EXPORT_METRICS = ("size_bytes", "latency_p50_ms", "latency_p95_ms")
"""What the exported model says, once a trial has trained."""
COMPRESS_METRICS = ("compress/accuracy", "compress/agreement")
"""What the compressed model says on the validation rows: its accuracy, and how often it agrees with the one before."""
HIGHER_IS_BETTER = ("val/accuracy", "samples_per_s", *COMPRESS_METRICS)

Above0 = Annotated[float, Field(gt=0)]
Number = Annotated[float, Fits("a number")]
KEY_PATH = r"^[a-z_][a-z0-9_]*(\.[A-Za-z0-9_]+)*$"
KeyPath = Annotated[str, Field(pattern=KEY_PATH), Fits("a key such as `model.width`")]


class RangeSpec(Spec):
    """What one key of the job may be. Exactly one field says which values; `step` and `when` go with it."""

    choice: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """One of these values. They may be whole sections."""
    grid: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """As `choice`; `search: {kind: grid}` tries every combination of such keys."""
    uniform: tuple[Number, Number] | None = None
    """A number from the first to the second, each equally likely."""
    loguniform: tuple[Above0, Above0] | None = None
    """The same, with a logarithm that is equally likely: for what counts in factors, such as a learning rate."""
    integer: tuple[int, int] | None = None
    """A whole number from the first to the second, both included."""
    log_integer: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    """The same with an equally likely logarithm."""
    step: Above0 | None = None
    """With `uniform` or `integer`: only the first value plus multiples of this."""
    when: dict[KeyPath, Any] = Field(default_factory=dict)
    """Searched only where other searched keys have these values: `{train.optimizer.kind: sgd}`; a list is any of it."""

    @model_validator(mode="after")
    def _one_range(self) -> RangeSpec:
        given = [name for name in RANGES if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{listed(given, 'and')} are written" if given else "no range is written"
            raise ValueError(f"{found}; write exactly one of {listed(RANGES)}")
        kind = given[0]
        if kind not in ("choice", "grid"):
            low, high = getattr(self, kind)
            if not low < high:
                raise ValueError(f"a range from {low:g} to {high:g} does not rise; write the smaller number first")
        if self.step is not None:
            self._check_step(kind)
        return self

    def _check_step(self, kind: str) -> None:
        if kind not in ("uniform", "integer"):
            raise ValueError(f"step does not go with {kind}; write `uniform` or `integer`")
        low, high = getattr(self, kind)
        assert self.step is not None, "the caller looked"
        if self.step > high - low:
            raise ValueError(f"a step of {self.step:g} is larger than the range from {low:g} to {high:g}")
        if kind == "integer" and self.step % 1:
            raise ValueError(f"a step of {self.step:g} leads to numbers that are not whole")


RANGES = ("choice", "grid", "uniform", "loguniform", "integer", "log_integer")


class RandomSearch(Spec):
    """Every configuration drawn by itself (Bergstra and Bengio, JMLR 2012)."""

    kind: Literal["random"]


class SobolSearch(Spec):
    """Random, and spread evenly (Sobol, 1967; scrambled as by Owen, 1995)."""

    kind: Literal["sobol"]


class GridSearch(Spec):
    """Every combination, once."""

    kind: Literal["grid"]


class TpeSearch(Spec):
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), by Optuna. Takes several objectives."""

    kind: Literal["tpe"]
    startup: int = Field(default=10, ge=1)
    """Configurations that are drawn at random first."""


class GpSearch(Spec):
    """Gaussian process with expected improvement, by Optuna: the fewest trials, and seconds for each choice."""

    kind: Literal["gp"]
    startup: int = Field(default=10, ge=1)
    """Configurations that are drawn at random first."""


class CmaEsSearch(Spec):
    """CMA-ES (Hansen, arXiv 1604.00772), by Optuna: for many keys that are numbers. One objective."""

    kind: Literal["cma_es"]
    startup: int = Field(default=1, ge=1)
    """Configurations that are drawn at random first."""


class Nsga2Search(Spec):
    """NSGA-II (Deb et al., 2002), by Optuna: generations, for several objectives and many trials."""

    kind: Literal["nsga2"]
    population: int = Field(default=16, ge=2)
    """Trials of a generation."""


class Nsga3Search(Spec):
    """NSGA-III (Deb and Jain, 2014), by Optuna: for three objectives and more."""

    kind: Literal["nsga3"]
    population: int = Field(default=16, ge=2)
    """Trials of a generation."""


Search = Annotated[
    RandomSearch | SobolSearch | GridSearch | TpeSearch | GpSearch | CmaEsSearch | Nsga2Search | Nsga3Search,
    Field(discriminator="kind"),
]


class Fifo(Spec):
    """Every trial trains to its last epoch."""

    kind: Literal["fifo"]


class MedianStopping(Spec):
    """Stop what is worse than the median of the others at the same epoch (Golovin et al., KDD 2017)."""

    kind: Literal["median"]
    grace: int = Field(default=1, ge=1)
    """Epochs that every trial gets."""
    min_trials: int = Field(default=3, ge=1)
    """Trials that must have got as far before one is stopped."""


class Asha(Spec):
    """Asynchronous successive halving (Li et al., arXiv 1810.05934): at each rung only the best go on."""

    kind: Literal["asha"]
    grace: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Epochs of the first rung, which every trial gets. `auto` is a ninth of all: after less, the order of the curves
    says little of where they end."""
    reduction: int = Field(default=3, ge=2)
    """One of so many goes on; each rung has so many times the epochs of the one before."""
    brackets: int = Field(default=1, ge=1)
    """Trials are dealt out over brackets that begin to stop later and later."""


class Hyperband(Spec):
    """HyperBand (Li et al., arXiv 1603.06560): trials of a bracket wait for each other at every rung."""

    kind: Literal["hyperband"]
    reduction: int = Field(default=3, ge=2)
    """One of so many goes on."""


class Pbt(Spec):
    """Population based training (Jaderberg et al., arXiv 1711.09846): bad trials go on from the weights of good ones,
    with the optimizer's numbers changed. `budget.trials` is the population."""

    kind: Literal["pbt"]
    interval: int = Field(default=2, ge=1)
    """Epochs between two looks at the population."""
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    """Share at the bottom that takes over from the same share at the top."""
    resample: float = Field(default=0.25, ge=0, le=1)
    """Chance that a number is drawn anew instead of changed by a fifth."""


class Pb2(Spec):
    """Population based bandits (Parker-Holder et al., arXiv 2002.02518): as pbt, the numbers chosen by a model."""

    kind: Literal["pb2"]
    interval: int = Field(default=2, ge=1)
    """Epochs between two looks at the population."""
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    """Share at the bottom that takes over from the same share at the top."""


Scheduler = Annotated[Fifo | MedianStopping | Asha | Hyperband | Pbt | Pb2, Field(discriminator="kind")]


class ObjectiveSpec(Spec):
    """A number that the sweep makes large or small."""

    metric: Metric
    """From training, of the checkpoint that would be kept; or from the exported model."""
    goal: Literal["max", "min"] | Auto = "auto"
    """`auto` is max for accuracy and speed, min for loss, size and latency."""


class BudgetSpec(Spec):
    """Where the sweep ends, at whichever limit it meets first."""

    trials: Annotated[int, Field(ge=1)] | Auto = "auto"
    """`auto` is every combination of a grid, no limit where another one is written, and 20 otherwise."""
    wall: Seconds | None = None
    """Time that the sweep runs, restarts added up."""
    cpu_hours: Above0 | None = None
    """CPUs that trials hold, times hours."""
    gpu_hours: Above0 | None = None
    """GPUs that trials hold, times hours."""
    money: Above0 | None = None
    """In the currency of the cluster file's prices: what all nodes cost while the sweep runs."""


class TuneSpec(Spec):
    """A sweep: train with many configurations, and go on with the best."""

    space: Annotated[dict[KeyPath, RangeSpec], Field(min_length=1)]
    """Key of the job to what it may be. Keys of data (not its source), model, train and compress, such as
    `compress.ladder.0.structured`."""
    constraints: tuple[Text, ...] = ()
    """Expressions over keys that have to hold, such as `model.width * train.batch_size <= 4096`."""
    search: Search | Auto = "auto"
    """What proposes configurations. `auto` is grid where every range is a grid, and tpe otherwise."""
    scheduler: Scheduler = Fifo(kind="fifo")
    """What stops bad trials early."""
    objectives: Annotated[tuple[ObjectiveSpec, ...], Field(min_length=1, max_length=4)] = (
        ObjectiveSpec(metric="val/accuracy"),
    )
    """The first one is what a scheduler judges by."""
    limits: dict[Metric, Gate] = Field(default_factory=dict)
    """What the chosen trial has to keep to, such as `size_bytes: "<= 100000"`."""
    choose: Literal["best", "knee"] | Auto = "auto"
    """Within the limits: the best by the first objective, or the knee of the Pareto front. `auto` is best for one
    objective and where there are limits, and knee otherwise."""
    final: Literal["checkpoint", "retrain"] = "checkpoint"
    """Go on with the chosen trial's checkpoint, or train its configuration anew on the training and validation rows."""
    budget: BudgetSpec = BudgetSpec()
    known: tuple[Annotated[dict[KeyPath, Any], Field(min_length=1)], ...] = ()
    """Configurations that are tried first. A key that one leaves out has the job's own value, if its range holds it."""
    warm_start: tuple[Text, ...] = ()
    """Earlier sweeps, by run: what they found counts as if it had been found here, where the space holds it."""
    concurrency: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Trials at a time. `auto` is what the cluster holds, at every size that it grows and shrinks to."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """CPUs that each worker of a trial holds."""
    max_failures: Annotated[int, Field(ge=1)] | None = None
    """Failed trials at which the sweep ends. Without it a failed trial is recorded, and the others go on."""
