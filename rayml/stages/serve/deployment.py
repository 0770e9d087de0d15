"""The endpoint on Ray Serve: HAProxy in front, one ONNX Runtime session per replica."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

from rayml.errors import StageError
from rayml.stages.serve import haproxy
from rayml.stages.serve.endpoint import RECORD, Endpoint, write_endpoint
from rayml.stages.serve.keys import hash_key, new_key
from rayml.stages.serve.model import ServedModel, load_model
from rayml.stages.serve.wire import App

_APPLICATION = "rayml"
_READY_S = 60.0
_STOP_S = 10.0
_WATCH_S = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Settings:
    """How an endpoint is run."""

    host: str = "127.0.0.1"
    port: int | None = None
    """None asks the system for a free one."""
    replicas_min: int = 1
    replicas_max: int = 1
    cpus: int = 1
    """Processors of one replica, and threads of its ONNX Runtime."""
    max_body: int = 16 * 2**20
    """Bytes."""
    max_rows: int = 1024
    auth: bool = True


def start_endpoint(model_folder: Path, settings: Settings, run_folder: Path) -> Endpoint:
    """Deploy `model_folder/model.onnx` and wait until it answers. Ray runs already, with `serve_environment` set.

    Raises:
        StageError: the model cannot be loaded, the port or the cluster is taken, or the replicas do not come up.
    """
    model = load_model(model_folder, threads=settings.cpus)
    port = settings.port if settings.port is not None else haproxy.free_ports(1)[0]
    key = new_key() if settings.auth else None
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "localhost") else settings.host  # noqa: S104
    endpoint = Endpoint(f"http://{host}:{port}", model.name, model.version, key, os.getpid())
    _check_port(settings.host, port)
    _check_cluster()
    haproxy.prepare(run_folder)
    try:
        _deploy(model_folder, settings, port, None if key is None else hash_key(key))
        _wait_running(settings)
        _wait_ready(endpoint)
    except BaseException:
        stop_endpoint(run_folder)
        raise
    write_endpoint(run_folder, endpoint)
    return endpoint


def stop_endpoint(run_folder: Path) -> None:
    """End the deployment, its HAProxy and its record. Ray itself goes on; calling this twice does no harm."""
    import ray

    (run_folder / RECORD).unlink(missing_ok=True)
    # Ray waits up to 30 s for a controller that may be dead; what it leaves is ended below or by ray.shutdown.
    stopping = Thread(target=_shut_down_serve, daemon=True)
    if ray.is_initialized():
        stopping.start()
        stopping.join(_STOP_S)
    haproxy.reap(run_folder)
    if stopping.is_alive():
        # A manager that still lives may start HAProxy again: keep the record for the reap after ray.shutdown.
        haproxy.prepare(run_folder)


def serve_forever(
    model_folder: Path, settings: Settings, run_folder: Path, announce: Callable[[Endpoint], None]
) -> None:
    """Serve until SIGINT or SIGTERM, then stop. Ray runs already, with `serve_environment` set.

    Args:
        announce: called once the endpoint answers.

    Raises:
        StageError: as `start_endpoint`, and when the endpoint stops answering by itself.
    """
    asked_to_stop = Event()
    before = {number: signal.signal(number, lambda *_: asked_to_stop.set()) for number in _SIGNALS}
    try:
        endpoint = start_endpoint(model_folder, settings, run_folder)
        announce(endpoint)
        while not asked_to_stop.wait(_WATCH_S):
            _wait_ready(endpoint)
    finally:
        stop_endpoint(run_folder)
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_port(host: str, port: int) -> None:
    """Refuse a taken port with a sentence, before HAProxy fails with a log file."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            of_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
            raise StageError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                where="serve.port" if of_port else "serve.host",
                hint="free that port, name another one, or write `port: auto`"
                if of_port
                else "127.0.0.1 is for this machine alone, 0.0.0.0 for the network",
            ) from error


def _check_cluster() -> None:
    """Ray Serve is one per cluster: ours would take its settings from another's, and end it when it stops."""
    import ray

    if any(actor["name"] == "SERVE_CONTROLLER_ACTOR" for actor in ray.util.list_named_actors(all_namespaces=True)):
        raise StageError(
            "this Ray cluster runs Ray Serve already",
            where="serve",
            hint="stop the endpoint that runs there, or give this one a cluster of its own",
        )


def _deploy(model_folder: Path, settings: Settings, port: int, key_hash: str | None) -> None:
    from ray import serve
    from ray.exceptions import RayError

    folder = str(model_folder.absolute())

    def build() -> App:
        return build_app(folder, settings, key_hash)

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(http_options={"host": settings.host, "port": port, "keep_alive_timeout_s": 90})
    except RayError as error:
        lines = str(error).strip().splitlines()
        alert = next((line for line in lines if "[ALERT]" in line), lines[-1])
        raise StageError(
            f"HAProxy did not start: {alert.strip()}",
            where="serve",
            hint="run the same command again; it goes on with this step and takes other ports",
        ) from error
    target = serve.RunTarget(make_application(build, settings), name=_APPLICATION, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def make_application(build: Callable[[], App], settings: Settings) -> Any:
    """The `ray.serve.Application` of an endpoint, here as on Kubernetes.

    Args:
        build: called in each replica, in its constructor. A replica whose `build` raises never becomes ready.
    """
    from ray import serve

    scale: dict[str, Any] = {"num_replicas": settings.replicas_min}
    if settings.replicas_max > settings.replicas_min:
        scale = {
            "autoscaling_config": {
                "min_replicas": settings.replicas_min,
                "max_replicas": settings.replicas_max,
                "initial_replicas": settings.replicas_min,
                "target_ongoing_requests": 4,
                "upscale_delay_s": 2,
            }
        }

    deployment: Any = serve.deployment(
        name="model",
        ray_actor_options={"num_cpus": settings.cpus},
        max_ongoing_requests=64,
        max_queued_requests=256,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=5,
        **scale,
    )
    return deployment(serve.ingress(build)(_Replica)).bind()


def build_app(model_folder: str, settings: Settings, key_hash: str | None) -> App:
    """The application of one replica, with its model loaded and warm."""
    return app_of(load_model(Path(model_folder), threads=settings.cpus), settings, key_hash)


def app_of(model: ServedModel, settings: Settings, key_hash: str | None) -> App:
    """The application that serves a model by these settings."""
    from rayml.stages.serve.app import create_app

    return create_app(model, key_hash=key_hash, max_body=settings.max_body, max_rows=settings.max_rows)


class _Replica:
    """What Ray Serve wants a class for; the application holds everything."""


def _wait_running(settings: Settings) -> None:
    """Wait for the replicas with a deadline; Ray's own waiting has none where the cluster has no room for them."""
    from ray import serve

    deadline = time.monotonic() + _READY_S
    while True:
        application = serve.status().applications.get(_APPLICATION)
        status = application.status.value if application is not None else "NOT_STARTED"
        if status == "RUNNING":
            return
        message = application.message if application is not None else ""
        if status == "DEPLOY_FAILED" or time.monotonic() > deadline:
            last_line = (message.strip().splitlines() or ["no reason given"])[-1]
            raise StageError(
                f"the endpoint's replicas did not start ({status}): {last_line}",
                where="serve",
                hint=f"each of {settings.replicas_min} replicas needs {settings.cpus} free CPU and the model's folder",
            )
        time.sleep(0.05)


def _wait_ready(endpoint: Endpoint) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            with urllib.request.urlopen(f"{endpoint.url}/v2/health/ready", timeout=5):  # noqa: S310 (our own http URL)
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise StageError(
                    f"the endpoint did not answer within {_READY_S:.0f} s: {error}", where=endpoint.url
                ) from error
            time.sleep(0.02)


def _shut_down_serve() -> None:
    from ray import serve

    with suppress(Exception):
        cast("Any", serve).shutdown()
