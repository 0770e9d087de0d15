"""`ray_train`: ranks as workers of Ray Train, on as many nodes as the cluster has."""

from __future__ import annotations

import contextlib
from typing import Any

from rayml.errors import BackendError, RaymlError, WorkerLost
from rayml.observe.relay import Relay
from rayml.stages.api import Emit
from rayml.stages.train.failures import Died, explain
from rayml.stages.train.launchers.base import Order


def fit(order: Order, emit: Emit) -> None:
    """Run the loop on every worker of a TorchTrainer."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from rayml.stages.train.launchers.interfaces import TorchOnNodes

    resources = order.resources
    relay = Relay(emit)
    trainer = TorchTrainer(
        work_on_ray,
        train_loop_config={"order": order, "relay": relay.sender},
        torch_config=TorchOnNodes(backend="nccl" if resources.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=bool(resources.gpus_per_worker),
            resources_per_worker={"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker},
        ),
        run_config=RunConfig(storage_path=str(order.storage), name=order.run),
    )
    try:
        with relay:
            trainer.fit()
    except TrainingFailedError as error:
        with contextlib.suppress(BackendError):
            order.hosts.fetch(order.logs)
        raise explain_ray(error, order) from None


def work_on_ray(settings: dict[str, Any]) -> None:
    """What Ray Train calls on each worker."""
    import torch.distributed as dist
    from ray.train.torch import get_device

    from rayml.stages.train.launchers.outpost import arrive, logs_sent
    from rayml.stages.train.memory import keep_freed_memory
    from rayml.stages.train.rank import log_to_file, work
    from rayml.stages.train.strategies.base import Seat

    keep_freed_memory()
    order: Order = settings["order"]
    seat = Seat(dist.get_rank(), dist.get_world_size(), get_device())
    arrive(order, seat.rank)
    log = log_to_file(order.logs, seat.rank)
    with logs_sent(order, seat.rank):
        work(order.loop, seat, settings["relay"], log)


def explain_ray(error: Exception, order: Order) -> RaymlError:
    """Ray Train's failure as an error of rayml."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    if not failures:
        return WorkerLost(
            f"Ray Train ended the workers: {error}", where="train", hint="see driver.log in the run folder"
        )
    causes = {rank: root_cause(failure) for rank, failure in failures.items()}
    return explain(causes, order.resources.workers, order.logs)


def root_cause(failure: Exception) -> Exception:
    """The exception below Ray's wrappers; Died where Ray says that the worker's process is gone."""
    from ray.exceptions import RayError

    wrapped = (getattr(failure, name, None) for name in ("_base_exc", "health_check_failure", "cause", "__cause__"))
    inner = next((each for each in wrapped if isinstance(each, Exception) and each is not failure), None)
    if inner is not None:
        return root_cause(inner)
    return Died(f"{type(failure).__name__}: {failure}") if isinstance(failure, RayError) else failure
