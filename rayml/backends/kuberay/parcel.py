"""What travels with a job: its plan, and the user's code where it has some, in a ConfigMap that pods mount.

With code it is the same zip as is sent to any other Ray cluster (rayml.backends.ray.packing), and every node unpacks it
from the mount as its working directory: nothing is fetched from anywhere. Ray reads a `file://` address of a zip as it
does one of S3 (ray/_private/runtime_env/protocol.py).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayml.backends.kuberay.metadata import metadata
from rayml.backends.kuberay.pods import PLAN_FOLDER, Document
from rayml.backends.ray.packing import CODE_FOLDER, PLAN_FILE, pack
from rayml.errors import PlanError
from rayml.plan.plan import Plan
from rayml.spec.kuberay import KubeRayCluster

LARGEST = 900_000
"""Bytes. Kubernetes takes 1 MiB in a ConfigMap, its names and annotations among them."""
ZIP = "package.zip"


@dataclass(frozen=True)
class Parcel:
    """A plan on its way to a head."""

    name: str
    """Of the ConfigMap."""
    plan: str
    """As JSON."""
    package: bytes | None
    """The zip of plan and code; None for a job without code of the user's."""

    @property
    def plan_path(self) -> str:
        """Where the head finds the plan: in its mount, or in the working directory that the zip becomes."""
        return f"{PLAN_FOLDER}/{PLAN_FILE}" if self.package is None else PLAN_FILE

    def runtime_env(self) -> dict[str, Any]:
        """Of the job. It holds nothing that bash would act on in double quotes, where KubeRay puts it."""
        variables = {"env_vars": {"PYTHONUNBUFFERED": "1"}}
        return variables if self.package is None else {"working_dir": f"file://{PLAN_FOLDER}/{ZIP}", **variables}

    def config_map(self, cluster: KubeRayCluster, notes: dict[str, str], labels: dict[str, str]) -> Document:
        """The ConfigMap. Not immutable: the same run is submitted from another folder with other paths in its plan."""
        document: Document = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(cluster, self.name, notes, labels),
        }
        if self.package is None:
            return {**document, "data": {PLAN_FILE: self.plan}}
        return {**document, "binaryData": {ZIP: base64.b64encode(self.package).decode()}}


def make_parcel(plan: Plan, name: str) -> Parcel:
    """Pack a plan. Reads the code folder.

    Raises:
        PlanError: the result is too large, or the folder cannot travel.
        SpecError: secrets are written out in the files of that folder.
    """
    code = None if plan.code is None else Path(plan.code)
    sent = plan if code is None else plan.model_copy(update={"code": CODE_FOLDER})
    text = sent.model_dump_json(indent=1) + "\n"
    package = None if code is None else pack(text, code).content
    size = len(text.encode()) if package is None else len(package)
    if size > LARGEST:
        raise too_large(size, plan.code)
    return Parcel(name, text, package)


def too_large(size: int, code: str | None) -> PlanError:
    """The error of a plan that does not fit."""
    what = "the plan" if code is None else "the plan and the code folder"
    return PlanError(
        f"{what} would take {size / 1000:,.0f} KB, and a ConfigMap takes {LARGEST / 1000:.0f} KB",
        where="plan" if code is None else f"code: {code}",
        hint="name fewer trials in tune.warm_start"
        if code is None
        else "build what is large into the image, or name it in a .rayignore in that folder",
    )
