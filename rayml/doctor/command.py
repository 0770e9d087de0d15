"""`rayml doctor`: what works, what does not, and what to type. Exit 0 where nothing is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rayml.doctor.asked import Asked
from rayml.doctor.examine import examine
from rayml.doctor.show import Findings, print_findings, to_json
from rayml.spec.cluster import RayCluster
from rayml.spec.kuberay import KubeRayCluster
from rayml.spec.load import load_cluster

EXIT_WRONG, EXIT_UNREACHABLE = 4, 5


def run(
    home: Path, cluster: Path | None, address: str | None, storage: str | None, image: bool, fix: bool, as_json: bool
) -> int:
    """Look, print, and say how it ended.

    Raises:
        SpecError: the cluster file is wrong.
    """
    findings = examine(asked(home, cluster, address, storage, image, fix))
    if as_json:
        sys.stdout.write(f"{json.dumps(to_json(findings), indent=2)}\n")
    else:
        from rich.console import Console

        print_findings(Console(), findings)
    return exit_code(findings)


def asked(home: Path, cluster: Path | None, address: str | None, storage: str | None, image: bool, fix: bool) -> Asked:
    """What is to be looked at; a cluster file of kind ray names an address and a storage."""
    named = None if cluster is None else load_cluster(cluster)
    if isinstance(named, RayCluster):
        address, storage = address or named.address, storage or named.storage
    kubernetes = named if isinstance(named, KubeRayCluster) else None
    return Asked(home, address, storage, kubernetes, image, fix)


def exit_code(findings: Findings) -> int:
    """0 where nothing is wrong, 5 where all that is wrong is that something does not answer or refuses, else 4."""
    faults = [each for section in findings.values() for each in section if each.status == "wrong"]
    if not faults:
        return 0
    return EXIT_UNREACHABLE if all(fault.unreachable for fault in faults) else EXIT_WRONG
