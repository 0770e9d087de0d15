"""All probes, in sections that run side by side: what is asked decides which."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rayml.doctor import (
    driver,
    head,
    image,
    kubernetes,
    machine,
    packages,
    ports,
    ray_here,
    storage,
    topology,
    torch_build,
)
from rayml.doctor.asked import Asked
from rayml.doctor.driver import Driver
from rayml.doctor.finding import Finding, wrong
from rayml.doctor.torch_build import TorchSide

Section = Callable[[], list[Finding]]
DEADLINE_S = {"kubernetes": 20.0, "cluster": 60.0, "storage": 40.0}
"""A section that has not ended by then counts as wrong; these wait for others."""
WHAT_TO_ASK = {
    "kubernetes": "kubectl get --raw /readyz --request-timeout=5s, with the same KUBECONFIG",
    "cluster": "curl --max-time 5 ADDRESS/api/healthz; if it answers, the head is overloaded: ray status on it",
    "storage": "see that the folder or server answers: time ls FOLDER, or aws s3 ls s3://BUCKET/PREFIX",
}
USUAL_DEADLINE_S = 30.0
"""Without a cluster, torch's 13 s are the longest."""


def examine(asked: Asked) -> dict[str, list[Finding]]:
    """The findings of each section."""
    running = {name: _Running(name, section) for name, section in sections(asked).items()}
    return {name: each.result() for name, each in running.items()}


def sections(asked: Asked) -> dict[str, Section]:
    """What is looked at. Inside an image, only what the image brings."""
    if asked.image:
        return {"python": python, "torch": torch_in_image, "image": image.look}
    found: dict[str, Section] = {
        "machine": this_machine,
        "python": python,
        "gpu and torch": gpu_and_torch,
        "ray": lambda: ray(asked.fix),
        "storage": lambda: stored(asked),
    }
    if asked.address is not None:
        address = asked.address
        found["cluster"] = lambda: head.look(address)
    if asked.kubernetes is not None:
        cluster = asked.kubernetes
        found["kubernetes"] = lambda: kubernetes.look(cluster)
    return found


def this_machine() -> list[Finding]:
    """The machine or container."""
    return [machine.memory(), machine.cpus(), machine.shared_memory(), machine.open_files(), ports.loopback()]


def python() -> list[Finding]:
    """Python and packages."""
    return [packages.python(), packages.packages()]


def torch_in_image() -> list[Finding]:
    """torch alone: an image is built where no GPU is."""
    return [torch_build.build(torch_build.look())]


def gpu_and_torch() -> list[Finding]:
    """Driver and torch are asked at the same time, and judged together."""
    with ThreadPoolExecutor(3) as pool:
        side, found, drawn = (
            pool.submit(torch_build.look),
            pool.submit(driver.look),
            pool.submit(driver.run, "topo", "-m"),
        )
        return judge(found.result(), drawn.result(), side.result())


def judge(found: Driver | str, drawn: str, side: TorchSide) -> list[Finding]:
    """What driver, topology and torch say, as findings; recordings of other machines come in here."""
    findings = [driver.driver(found)]
    if isinstance(found, Driver):
        findings += [driver.gpus(found), driver.health(found)]
        findings += [topology.topology(topology.parse(drawn))] if len(found.gpus) > 1 else []
    findings.append(torch_build.build(side))
    if side.build is None:
        return findings
    if isinstance(found, Driver):
        findings += [torch_build.cuda(side, found)] if found.runs_cuda else []
        findings.append(torch_build.visibility(side, found))
    return [*findings, torch_build.nccl(side), torch_build.all_reduce(side)]


def ray(fix: bool) -> list[Finding]:
    """Ray on this machine."""
    try:
        Path.home()
    except RuntimeError:
        what = "HOME is not set, and this user has no entry in /etc/passwd: Ray finds no token and no cache"
        return [ray_here.ray_version(), wrong("home folder", what, "export HOME=/home/rayml")]
    return [
        ray_here.ray_version(),
        ray_here.authentication(),
        ray_here.token_file(fix),
        ray_here.unsafe_switches(),
        ports.taken(),
    ]


def stored(asked: Asked) -> list[Finding]:
    """The home, and the storage where one is named."""
    found = storage.folder(asked.home, "home")
    return found if asked.storage is None else [*found, *storage.look(asked.storage, asked.home / "doctor-cache")]


class _Running:
    """A section in a thread that does not hold the process up."""

    def __init__(self, name: str, section: Section) -> None:
        self._name, self._section = name, section
        self._seconds = DEADLINE_S.get(name, USUAL_DEADLINE_S)
        self._deadline = time.monotonic() + self._seconds
        self._found: list[Finding] | None = None
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = self._section()
        except BaseException as fault:
            self._fault = fault

    def result(self) -> list[Finding]:
        """Its findings. Raises what the section raised: that is a bug."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._fault is not None:
            raise self._fault
        if self._found is None:
            found = f"no answer within {self._seconds:.0f} s"
            hint = WHAT_TO_ASK.get(self._name, "see what the system waits for: sudo dmesg | tail")
            return [Finding(self._name, "wrong", found, hint, unreachable=self._name in DEADLINE_S)]
        return self._found
