"""The licence of every package of requirements.lock: `make licences`. Refuses one that is unknown or not allowed.

What is allowed, and why a package is let in that is not, stands in licences.yaml beside this file. A licence is what
the package's own metadata say, in this order: License-Expression, classifiers, License.
"""

from __future__ import annotations

import fnmatch
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from lock import ENTRY, read_lock
from packaging.markers import Marker

RULES = Path(__file__).with_name("licences.yaml")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Licence:
    """Of one package."""

    package: str
    version: str
    licence: str
    """An SPDX expression, or `unknown`."""
    fault: str
    """Why it is refused; empty where it is not."""
    reason: str = ""
    """Why it is let in, where it needs one."""


def licences(rules: dict[str, Any], entries: Iterable[str]) -> list[Licence]:
    """The licence of each entry of a lock whose marker counts here."""
    found = []
    for entry in entries:
        line = ENTRY.match(entry.splitlines()[0])
        assert line is not None, "read_lock lets nothing else pass"
        if line["marker"] is None or Marker(line["marker"]).evaluate():
            found.append(licence_of(rules, line["name"], line["version"]))
    return found


def licence_of(rules: dict[str, Any], package: str, version: str) -> Licence:
    """What a package is under, and whether it may be."""
    try:
        said = words_of(rules, metadata.metadata(package))
    except metadata.PackageNotFoundError:
        return Licence(package, version, UNKNOWN, "is not installed here: make install, then again")
    excepted = next((rule for name, rule in rules["exceptions"].items() if fnmatch.fnmatch(package, name)), None)
    if excepted is not None:
        known = said in (UNKNOWN, excepted["licence"])
        fault = "" if known else f"is under {said} now, and licences.yaml lets it in under {excepted['licence']}"
        return Licence(package, version, excepted["licence"], fault, excepted["reason"])
    if said == UNKNOWN:
        return Licence(package, version, said, "names no licence: read its LICENSE file, and write it to licences.yaml")
    fault = "" if allowed(said, rules["allowed"]) else f"is under {said}, which licences.yaml does not allow"
    return Licence(package, version, said, fault)


def words_of(rules: dict[str, Any], about: metadata.PackageMetadata) -> str:
    """An SPDX expression from a package's metadata; `unknown` where it holds none that can be read."""
    fields = about.json
    if "license_expression" in fields:
        return str(fields["license_expression"])
    classifiers = [each.split(" :: ")[-1] for each in about.get_all("Classifier") or () if each.startswith("License ")]
    named = [rules["words"][each] for each in classifiers if each in rules["words"]]
    if named:
        return " OR ".join(sorted(set(named)))
    first = next(iter(str(fields.get("license") or "").strip().splitlines()), "")
    if first in rules["words"]:
        return str(rules["words"][first])
    return first if first and all(re.fullmatch(r"[A-Za-z0-9.+-]+", name) for name in names_in(first)) else UNKNOWN


def names_in(expression: str) -> list[str]:
    return [name for name in re.split(r" (?:AND|OR|WITH) ", expression) if name]


def allowed(expression: str, names: list[str]) -> bool:
    """Whether an SPDX expression can be kept with these licences. `AND` binds closer than `OR`; no parentheses."""
    return "(" not in expression and any(
        all(part.strip() in names for part in choice.split(" AND ")) for choice in expression.split(" OR ")
    )


def main() -> int:
    rules = yaml.safe_load(RULES.read_text())
    found = licences(rules, (entry for entries in read_lock().values() for entry in entries))
    for each in found:
        line = f"{each.package} {each.version}: {each.licence}"
        sys.stdout.write(f"{line} ({each.reason})\n" if each.reason else f"{line}\n")
    faults = [each for each in found if each.fault]
    for each in faults:
        sys.stderr.write(f"error: {each.package} {each.version} {each.fault}\n")
    return 2 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
