"""S16: Ray Tune's own state is pickles. A sweep that goes on beside hostile ones reads none of them."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from evil import EVIL, Touch
from stages.tune import sweeps

from rayml.stages.tune import engine

pytestmark = pytest.mark.ray
NAMES = (
    "tuner.pkl",
    "trainable.pkl",
    "experiment_state-2026-01-01_00-00-00.json",
    "searcher-state-x.pkl",
    "00000/params.pkl",
)


@pytest.fixture
def cluster():
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        ray.init(address="local", num_cpus=1, object_store_memory=2**27, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Clock:
    """`time`, by which every sweep of this process has the same name."""

    time_ns = staticmethod(lambda: 1)

    def __getattr__(self, name):
        import time

        return getattr(time, name)


def test_pickles_where_ray_tune_keeps_its_state_are_not_run(tmp_path, cluster, monkeypatch):
    from ray import tune

    monkeypatch.setattr(engine, "time", Clock())
    ran, state = tmp_path / "ran", tmp_path / "ray" / f"sweep-{os.getpid()}-1"
    sweeps.run(tmp_path, {"budget": {"trials": 1}}, sweeps.Sleep(0.0))
    kept = [path for path in state.rglob("*") if path.is_file()]
    assert kept, "Ray Tune writes there"
    for path in [*kept, *(state / name for name in NAMES)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(EVIL["json" if path.suffix == ".json" else "cloudpickle"](Touch(ran)))
    shutil.copytree(state, tmp_path / "copy")
    ended, sweep = sweeps.run(tmp_path, {"budget": {"trials": 2}}, sweeps.Sleep(0.0))
    assert ended == "2 trials"
    assert [trial.status for trial in sweep.trials] == ["done", "done"]
    assert not ran.exists()
    with contextlib.suppress(Exception):
        tune.Tuner.restore(str(tmp_path / "copy"), trainable=sweeps.Sleep(0.0))
    assert ran.exists(), "the probe is sharp: whoever restores that state runs it"
