"""Ray Tune's schedulers, made from the job's section."""

from __future__ import annotations

import math
from typing import Any

from ray import tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from rayml.spec.space import Dimension, Space
from rayml.spec.sweep import changes_in_training

EPOCH = "epoch"
"""What schedulers count. It goes on in another process, as Ray Tune's own counter does not."""


def build_scheduler(config: dict[str, Any], objective: dict[str, str], epochs: int, space: Space) -> TrialScheduler:
    """The scheduler of a section.

    Args:
        config: the resolved `scheduler` section.
        objective: `metric` and `goal` of what it judges by.
        epochs: of a trial that trains to its end.
    """
    judged: dict[str, Any] = {"time_attr": EPOCH, "metric": objective["metric"], "mode": objective["goal"]}
    kind = config["kind"]
    if kind == "median":
        return MedianStoppingRule(
            **judged,
            grace_period=config["grace"],
            min_samples_required=config["min_trials"],
            hard_stop=True,
            # With too few trials to judge by, it would pause one after each epoch, behind all that are still to come.
            min_time_slice=math.inf,  # type: ignore[arg-type]
        )
    if kind == "asha":
        return ASHAScheduler(
            **judged,
            max_t=epochs,
            grace_period=min(config["grace"], epochs),
            reduction_factor=config["reduction"],
            brackets=config["brackets"],
        )
    if kind == "hyperband":
        return HyperBandScheduler(**judged, max_t=epochs, reduction_factor=config["reduction"])
    if kind in ("pbt", "pb2"):
        return build_population(config, judged, space)
    return FIFOScheduler()  # type: ignore[no-untyped-call]


def build_population(config: dict[str, Any], judged: dict[str, Any], space: Space) -> TrialScheduler:
    """pbt or pb2, over the numbers that can change while a trial trains."""
    changed = [each for each in space.dimensions if changes_in_training(each.path)]
    common = {
        **judged,
        "perturbation_interval": config["interval"],
        "quantile_fraction": config["quantile"],
        "require_attrs": False,
        "log_config": False,
    }

    def into_range(point: dict[str, Any]) -> dict[str, Any]:
        return {**point, **{each.path: nearest_in(each, point[each.path]) for each in changed}}

    if config["kind"] == "pbt":
        return PopulationBasedTraining(
            **common,
            hyperparam_mutations={each.path: domain(each) for each in changed},
            resample_probability=config["resample"],
            custom_explore_fn=into_range,
        )
    from ray.tune.schedulers.pb2 import PB2

    bounds: dict[str, dict[Any, Any] | list[Any] | tuple[Any, ...]] = {
        each.path: [each.low, each.high] for each in changed if each.kind != "choice"
    }
    return PB2(**common, hyperparam_bounds=bounds, custom_explore_fn=into_range)


def domain(dimension: Dimension) -> Any:
    """A key's range as Ray Tune's, for numbers that are drawn anew."""
    low, high = dimension.low, dimension.high
    if dimension.kind == "choice":
        return list(dimension.values)
    if dimension.kind == "integer":
        return tune.randint(int(low), int(high) + 1)
    if dimension.kind == "log_integer":
        return tune.lograndint(int(low), int(high) + 1)
    return tune.loguniform(low, high) if dimension.is_log else tune.uniform(low, high)


def nearest_in(dimension: Dimension, value: Any) -> Any:
    """The value of the range that is nearest to one that may lie outside."""
    if dimension.kind == "choice" or isinstance(value, bool):
        return value
    inside = min(max(value, dimension.low), dimension.high)
    if dimension.step is not None:
        inside = dimension.low + round((inside - dimension.low) / dimension.step) * dimension.step
    return round(inside) if dimension.is_integer else float(f"{inside:.12g}")
