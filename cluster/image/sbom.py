"""What goes into an image, as a CycloneDX document: `make sbom TARGET=cpu`.

The inputs, and not the outcome: the base by its digest, the Dockerfile and the locks by their sha256, and each package
with the sha256 of every file that pip would take. It is checked against CycloneDX's own schema before it is written.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from importlib.metadata import version
from pathlib import Path

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from lock import ENTRY, HERE, ROOT, read_lock
from packageurl import PackageURL

IMAGE = "docker.io/library/python"
SHA256 = re.compile(r"sha256:([0-9a-f]{64})")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def bill(target: str, base_digest: str, of: str) -> Bom:
    """The bill of a target. ValueError where the digest is none or a lock cannot be read."""
    if not DIGEST.fullmatch(base_digest):
        raise ValueError(f"{base_digest!r} is no digest of the base image: make sbom BASE_DIGEST=sha256:...")
    locks = [HERE / "wheels.lock", HERE / "sources.lock", HERE / f"torch-{target}.lock"]
    if not locks[-1].is_file():
        raise ValueError(f"there is no {locks[-1].name}: docs/image.md says how to make it")
    bom = Bom()
    bom.metadata.component = Component(name="rayml", version=of, type=ComponentType.CONTAINER, bom_ref="image")
    bom.metadata.component.properties.add(Property(name="rayml:target", value=target))
    parts = [base(base_digest), *(file(path) for path in (HERE / "Dockerfile", *locks))]
    parts += [package(entry) for lock in locks for entries in read_lock(lock).values() for entry in entries]
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(bom.metadata.component, parts)
    return bom


def base(digest: str) -> Component:
    """The image that the Dockerfile starts from."""
    purl = PackageURL("oci", name="python", version=digest, qualifiers={"repository_url": IMAGE})
    hashed = HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))
    return Component(
        name=IMAGE, version=digest, type=ComponentType.CONTAINER, purl=purl, hashes=[hashed], bom_ref="base"
    )


def file(path: Path) -> Component:
    """A file that the build reads."""
    hashed = HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(path.read_bytes()).hexdigest())
    name = path.relative_to(ROOT).as_posix()
    return Component(name=name, type=ComponentType.FILE, hashes=[hashed], bom_ref=f"file:{name}")


def package(entry: str) -> Component:
    """A package of a lock. Its files are references, because one version has a file for each Python."""
    line = ENTRY.match(entry.splitlines()[0])
    assert line is not None, "read_lock lets nothing else pass"
    name, version = line["name"], line["version"]
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=each) for each in SHA256.findall(entry)]
    where = XsUri(f"https://pypi.org/project/{name}/{version.partition('+')[0]}/#files")
    files = [ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=where, hashes=hashes)]
    purl = PackageURL("pypi", name=name, version=version)
    found = Component(
        name=name, version=version, type=ComponentType.LIBRARY, purl=purl, external_references=files, bom_ref=str(purl)
    )
    if line["marker"]:
        found.properties.add(Property(name="rayml:marker", value=line["marker"]))
    return found


def written(bom: Bom) -> str:
    """The document. ValueError where CycloneDX's schema refuses it."""
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    refused = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if refused is not None:
        raise ValueError(f"the schema of CycloneDX refuses it: {refused.data}")
    return text


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python cluster/image/sbom.py")
    parser.add_argument("--target", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--base-digest", required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        given.output.write_text(written(bill(given.target, given.base_digest, version("rayml"))))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
