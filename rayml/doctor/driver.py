"""NVIDIA's driver as `nvidia-smi -q -x` tells of it: its version, its GPUs, their memory and their faults.

The text is parsed apart from the command that makes it, so that recordings of other machines are read by the same code.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rayml.doctor.finding import Finding, ok, warning, wrong
from rayml.spec.words import count

TIMEOUT_S = 10.0
NO_ANSWER = f"no answer within {TIMEOUT_S:.0f} s"
DEATH_S = 1.0
LOG = re.compile(r"<nvidia_smi_log>.*</nvidia_smi_log>", re.DOTALL)
DEVICES = Path("/dev/nvidiactl")
LEAST_FREE = 0.9
"""Share of a GPU's memory below which somebody else works on it."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as the driver sees it."""

    name: str
    memory_mib: int
    used_mib: int
    ecc_errors: int
    """That could not be corrected, since the driver was loaded."""
    remap: str
    """`pending` or `failed` where rows of memory wait to be replaced, or could not be; else empty."""
    mig: bool
    needs_reset: bool


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi says."""

    version: str
    cuda: str
    """The newest CUDA that it can run: `13.0`; `N/A` and the like where its library for CUDA is missing."""
    gpus: tuple[Gpu, ...]
    remark: str = ""
    """What nvidia-smi says beside its document, such as that a GPU's infoROM is corrupted."""

    @property
    def runs_cuda(self) -> bool:
        """Whether it says which CUDA it can run."""
        return self.cuda[:1].isdigit()


def look() -> Driver | str:
    """The driver of this machine; a sentence where nvidia-smi fails, and an empty one where there is none."""
    if shutil.which("nvidia-smi") is None:
        return "a GPU's device is there, and nvidia-smi is not" if DEVICES.exists() else ""
    said = run("-q", "-x")
    try:
        return parse(said)
    except (ElementTree.ParseError, ValueError):
        lines = said.strip().splitlines()
        return f"nvidia-smi says: {printable(lines[0])[:200] if lines else 'nothing'}"


def run(*arguments: str) -> str:
    """What nvidia-smi prints, or its complaint."""
    command = ["nvidia-smi", *arguments]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    except OSError as error:
        return str(error.strerror)
    try:
        output, complaint = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(DEATH_S)  # one that waits inside the driver for a broken GPU does not die
        return NO_ANSWER
    return output or complaint or f"nothing, and ends with {process.returncode}"


def parse(text: str) -> Driver:
    """The document of `nvidia-smi -q -x`. ParseError or ValueError where it is none."""
    log = LOG.search(text)
    root = ElementTree.fromstring(log[0] if log else text)  # noqa: S314  the driver's own tool wrote it
    if root.tag != "nvidia_smi_log":
        raise ValueError(f"{root.tag} is no log of nvidia-smi")
    version, cuda = root.findtext("driver_version", ""), root.findtext("cuda_version", "")
    remark = printable("; ".join(text[log.end() :].strip().splitlines())) if log else ""
    return Driver(version, cuda, tuple(_gpu(each) for each in root.findall("gpu")), remark[:300])


def printable(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _gpu(node: ElementTree.Element) -> Gpu:
    volatile = node.find("ecc_errors/volatile")
    ecc = [] if volatile is None else [_number(each.text) for each in volatile if "uncorrectable" in each.tag]
    rows = {name: node.findtext(f"remapped_rows/remapped_row_{name}", "No") for name in ("pending", "failure")}
    return Gpu(
        name=node.findtext("product_name", "an unknown GPU"),
        memory_mib=_number(node.findtext("fb_memory_usage/total")),
        used_mib=_number(node.findtext("fb_memory_usage/used")),
        ecc_errors=sum(ecc),
        remap="failed" if rows["failure"] == "Yes" else "pending" if rows["pending"] == "Yes" else "",
        mig=node.findtext("mig_mode/current_mig") == "Enabled",
        needs_reset=node.findtext("gpu_reset_status/reset_required") == "Yes",
    )


def _number(text: str | None) -> int:
    """The number of `81559 MiB`; 0 of `N/A`."""
    word = (text or "").split(" ")[0]
    return int(word) if word.isdigit() else 0


def driver(found: Driver | str) -> Finding:
    """Whether a driver answers."""
    if isinstance(found, Driver) and found.runs_cuda:
        return ok("driver", f"{found.version}, for CUDA up to {found.cuda}")
    if isinstance(found, Driver):
        what = f"{found.version}, and its library for CUDA cannot be used (nvidia-smi: CUDA {found.cuda or 'unknown'})"
        hint = "ldconfig -p | grep libcuda.so.1; in a container: -e NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        return wrong("driver", what, hint)
    if found.endswith(NO_ANSWER):
        return wrong("driver", found, "see which GPU hangs: sudo dmesg | grep -iE 'xid|nvrm'; then sudo reboot")
    if found:
        hint = "boot again after a driver update, or sudo modprobe nvidia; in a container: docker run --gpus all"
        return wrong("driver", found, hint)
    return ok("driver", "no NVIDIA driver: everything runs on CPUs")


def gpus(found: Driver) -> Finding:
    """What is there, and how much of its memory is free."""
    if not found.gpus:
        return wrong(
            "gpus", "the driver lists no GPU", "dmesg | grep -i nvrm, and whether the GPU sits on the bus: lspci"
        )
    kinds = {each.name: sum(gpu.name == each.name for gpu in found.gpus) for each in found.gpus}
    text = ", ".join(f"{number} x {name}" for name, number in kinds.items())
    text += f", {min(gpu.memory_mib for gpu in found.gpus):,} MiB each at least"
    busy = [index for index, gpu in enumerate(found.gpus) if gpu.used_mib > (1 - LEAST_FREE) * gpu.memory_mib]
    if busy:
        used = ", ".join(f"GPU {index} has {found.gpus[index].used_mib:,} MiB in use" for index in busy)
        return warning(
            "gpus", f"{text}; {used}", "see whose it is: nvidia-smi --query-compute-apps=pid,name --format=csv"
        )
    return ok("gpus", text)


def health(found: Driver) -> Finding:
    """Memory that fails, and GPUs that wait for a reset."""
    faults = [f"GPU {index} {fault}" for index, gpu in enumerate(found.gpus) for fault in _faults(gpu)]
    if faults:
        hint = (
            "take the node out of use (kubectl drain NODE --ignore-daemonsets --delete-emptydir-data), reset it: "
            "sudo nvidia-smi --gpu-reset -i INDEX; if it comes back, ask for another GPU"
        )
        return wrong("gpu health", "; ".join(faults), hint)
    if found.remark:
        hint = "ask for another GPU where jobs fail on it: sudo dmesg | grep -iE 'xid|nvrm'"
        return warning("gpu health", f"nvidia-smi says: {found.remark}", hint)
    sliced = [str(index) for index, gpu in enumerate(found.gpus) if gpu.mig]
    if sliced:
        text = f"MIG is on for GPU {', '.join(sliced)}: a rank sees one slice, and NCCL does not work between slices"
        return warning("gpu health", text, "sudo nvidia-smi -mig 0 -i INDEX, where whole GPUs are meant")
    return ok("gpu health", f"no memory errors on {count(len(found.gpus), 'GPU')}")


def _faults(gpu: Gpu) -> list[str]:
    found = [f"has {count(gpu.ecc_errors, 'memory error')} that could not be corrected (ECC)"] if gpu.ecc_errors else []
    found += [f"has memory rows whose replacement is {gpu.remap}"] if gpu.remap else []
    return [*found, *(["has to be reset"] if gpu.needs_reset else [])]
