"""Python, and the packages that are installed against the bounds in rayml's own metadata."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from rayml.doctor.finding import Finding, ok, wrong

SHOWN = ("rayml", "ray", "torch")


def python() -> Finding:
    """The interpreter against `requires-python`."""
    return python_fits(".".join(map(str, sys.version_info[:3])), metadata.metadata("rayml")["Requires-Python"] or "")


def python_fits(version: str, bounds: str) -> Finding:
    """A version of Python against bounds such as `>=3.11,<3.15`."""
    if not SpecifierSet(bounds).contains(version, prereleases=True):
        found = f"Python {version} is outside of {bounds}"
        return wrong("python", found, "make the environment anew: rm -r .venv; PYTHON=python3.12 make install")
    return ok("python", f"{version} at {sys.executable}")


def packages() -> Finding:
    """What is installed against what rayml asks for."""
    return packages_fit(metadata.requires("rayml") or ())


def packages_fit(requirements: Iterable[str]) -> Finding:
    """Requirements (PEP 508) against what is installed. What an extra asks for may be missing, and may not be wrong."""
    checked = [(each, installed(each.name)) for each in map(Requirement, requirements) if each.name != "rayml"]
    faults = [
        f"{each.name} {found or 'is missing'} ({each.specifier})"
        for each, found in checked
        if not _fits(each, found) and _is_meant(each, found)
    ]
    if faults:
        hint = "python -m pip install --require-hashes -r requirements.lock"
        return wrong("packages", f"outside of rayml's bounds: {', '.join(sorted(set(faults)))}", hint)
    versions = ", ".join(f"{name} {installed(name)}" for name in SHOWN)
    return ok("packages", f"{versions}; all {len({each.name for each, found in checked if found})} within bounds")


def installed(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _fits(requirement: Requirement, found: str | None) -> bool:
    return found is not None and requirement.specifier.contains(found, prereleases=True)


def _is_meant(requirement: Requirement, found: str | None) -> bool:
    """Whether the requirement counts here: one of an extra does where its package is installed."""
    if requirement.marker is None:
        return True
    if "extra" not in str(requirement.marker):
        return requirement.marker.evaluate()
    return found is not None
