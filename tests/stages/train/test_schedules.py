"""The schedules, held to torch.optim.lr_scheduler where it has them."""

from __future__ import annotations

import json
import random

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.optim import lr_scheduler

from rayml.errors import StageError
from rayml.spec import schedule as spec
from rayml.stages.train.schedules import Schedule, set_lr

STEPS_PER_EPOCH, EPOCHS = 7, 10
STEPS = STEPS_PER_EPOCH * EPOCHS


def schedule(kind, *, steps_per_epoch=STEPS_PER_EPOCH, epochs=EPOCHS, **fields):
    section = TypeAdapter(spec.Schedule).validate_python({"kind": kind, **fields}).model_dump(mode="json")
    return Schedule(section, steps_per_epoch, epochs)


def factors(made, steps=STEPS):
    return [made.factor(step) for step in range(steps)]


def torch_factors(make, every=1, steps=STEPS):
    """What torch's class gives when it is stepped after every `every` optimizer steps."""
    optimizer = torch.optim.SGD([torch.zeros(())], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for step in range(1, steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0:
            scheduler.step()
    return found


def warmed_up(then, warmup=9):
    """As torch puts a warm-up in front of another schedule."""
    return lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=warmup), then(optimizer)],
        milestones=[warmup],
    )


WARMUP = {"warmup": {"steps": 9, "start_factor": 0.25}}
CASES = {
    "constant": (schedule("constant"), lambda o: lr_scheduler.ConstantLR(o, factor=1.0), 1),
    "step": (
        schedule("step", every_epochs=3, gamma=0.3),
        lambda o: lr_scheduler.StepLR(o, 3, 0.3),
        STEPS_PER_EPOCH,
    ),
    "multi_step": (
        schedule("multi_step", at_epochs=[2, 5, 9], gamma=0.2),
        lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 9], 0.2),
        STEPS_PER_EPOCH,
    ),
    "exponential": (
        schedule("exponential", gamma=0.8),
        lambda o: lr_scheduler.ExponentialLR(o, 0.8),
        STEPS_PER_EPOCH,
    ),
    "cosine": (schedule("cosine"), lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS), 1),
    "cosine with a floor": (
        schedule("cosine", floor=0.1),
        lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.1),
        1,
    ),
    "cosine with restarts": (
        schedule("cosine", floor=0.1, restart_epochs=2),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 14, eta_min=0.1),
        1,
    ),
    "cosine with longer restarts": (
        schedule("cosine", restart_epochs=1, restart_growth=2),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7, T_mult=2),
        1,
    ),
    "linear": (schedule("linear"), lambda o: lr_scheduler.PolynomialLR(o, STEPS, power=1.0), 1),
    "linear with a floor": (
        schedule("linear", floor=0.2),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=STEPS),
        1,
    ),
    "polynomial": (schedule("polynomial", power=3), lambda o: lr_scheduler.PolynomialLR(o, STEPS, power=3.0), 1),
    "one_cycle": (schedule("one_cycle"), lambda o: lr_scheduler.OneCycleLR(o, 1.0, STEPS, cycle_momentum=False), 1),
    "one_cycle in lines": (
        schedule("one_cycle", rise=0.4, shape="linear", start_factor=0.5, end_factor=0.05),
        lambda o: lr_scheduler.OneCycleLR(
            o,
            1.0,
            STEPS,
            pct_start=0.4,
            anneal_strategy="linear",
            div_factor=2,
            final_div_factor=10,
            cycle_momentum=False,
        ),
        1,
    ),
    "warm-up, then constant": (
        schedule("constant", **WARMUP),
        lambda o: lr_scheduler.LinearLR(o, start_factor=0.25, total_iters=9),
        1,
    ),
    "warm-up, then cosine": (
        schedule("cosine", floor=0.1, **WARMUP),
        warmed_up(lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS - 9, eta_min=0.1)),
        1,
    ),
    "warm-up, then polynomial": (
        schedule("polynomial", **WARMUP),
        warmed_up(lambda o: lr_scheduler.PolynomialLR(o, STEPS - 9, power=2.0)),
        1,
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("name", CASES)
def test_factors_are_those_of_torch(name):
    made, make, every = CASES[name]
    assert factors(made) == pytest.approx(torch_factors(make, every), abs=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_a_factor_depends_on_nothing_but_the_step(name):
    made = CASES[name][0]
    order = random.Random(3).sample(range(STEPS), STEPS)
    assert {step: made.factor(step) for step in order} == dict(enumerate(factors(made)))
    assert all(0 <= factor <= 1 for factor in factors(made))
    assert made.state() == {} and made.metric is None


@pytest.mark.parametrize(
    ("warmup", "steps"),
    [
        ({"steps": 5}, 5),
        ({"epochs": 2}, 14),
        ({"epochs": 0.5}, 4),
        ({"epochs": 0.01}, 1),
        ({"fraction": 0.1}, 7),
    ],
)
def test_length_of_a_warm_up(warmup, steps):
    made = schedule("constant", warmup={**warmup, "start_factor": 0})
    assert factors(made) == pytest.approx([step / steps for step in range(steps)] + [1.0] * (STEPS - steps))


def test_epochs_that_are_named_count_from_the_first_step():
    """As in torch's own recipes for ImageNet: a warm-up does not move the epochs at which the rate falls."""
    made = schedule("multi_step", at_epochs=[2], warmup={"epochs": 1})
    assert made.factor(13) == 1.0
    assert made.factor(14) == pytest.approx(0.1)


def test_a_warm_up_that_never_ends():
    with pytest.raises(StageError, match="takes 70 optimizer steps, and the whole training has 70"):
        schedule("linear", warmup={"epochs": 10})


@pytest.mark.parametrize(("steps_per_epoch", "epochs"), [(1, 1), (1, 3), (2, 1)])
@pytest.mark.parametrize("kind", ["cosine", "linear", "one_cycle", "exponential"])
def test_very_short_training(kind, steps_per_epoch, epochs):
    found = factors(schedule(kind, steps_per_epoch=steps_per_epoch, epochs=epochs), steps_per_epoch * epochs)
    assert all(0 <= factor <= 1 for factor in found)
    assert max(found) == pytest.approx(1, abs=0.01)


METRICS = [0.9, 0.7, 0.71, 0.72, 0.7, 0.69, 0.69, 0.7, 0.7, 0.7, 0.7, 0.7, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("goal", ["min", "max"])
@pytest.mark.parametrize("stopped_after", range(len(METRICS)))
def test_reduce_on_plateau_goes_on_where_it_was(goal, stopped_after):
    fields = {"goal": goal, "gamma": 0.5, "patience": 1, "cooldown": 1, "floor": 0.1}
    optimizer = torch.optim.SGD([torch.zeros(())], lr=1.0)
    reference = lr_scheduler.ReduceLROnPlateau(optimizer, goal, factor=0.5, patience=1, cooldown=1, min_lr=0.1)
    made = schedule("reduce_on_plateau", **fields)
    assert made.metric == "val/loss"
    for epoch, metric in enumerate(METRICS):
        if epoch == stopped_after:
            state = json.loads(json.dumps(made.state(), allow_nan=False))
            made = schedule("reduce_on_plateau", **fields)
            made.load(state)
        reference.step(metric)
        made.observe(metric)
        assert made.factor(epoch * STEPS_PER_EPOCH) == optimizer.param_groups[0]["lr"]
    assert 0.1 <= made.factor(0) <= 0.25


def test_reduce_on_plateau_warms_up():
    made = schedule("reduce_on_plateau", warmup={"steps": 10, "start_factor": 0.0}, patience=0)
    made.observe(1.0)
    made.observe(2.0)
    assert [made.factor(step) for step in (0, 5, 10)] == pytest.approx([0, 0.05, 0.1])


def test_the_learning_rate_of_every_group():
    optimizer = torch.optim.SGD(
        [{"params": [torch.zeros(1)], "lr": lr, "base_lr": lr} for lr in (0.3, 0.01)],
    )
    set_lr(optimizer, 0.5)
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.15, 0.005]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"kind": "cosine", "warmup": {}}, "none of these are given"),
        ({"kind": "cosine", "warmup": {"steps": 3, "epochs": 1}}, "steps and epochs are given"),
        ({"kind": "multi_step", "at_epochs": [5, 5]}, "has to rise"),
        ({"kind": "multi_step", "at_epochs": []}, "at least 1 item"),
        ({"kind": "one_cycle", "warmup": {"steps": 3}}, "Extra inputs"),
        ({"kind": "linear", "floor": 1.0}, "less than 1"),
    ],
)
def test_sections_that_do_not_fit(section, said):
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(spec.Schedule).validate_python(section)
