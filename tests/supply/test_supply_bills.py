"""The bills of material and the licences: what is in them, and what they refuse."""

from __future__ import annotations

import json

import licences
import pytest
import yaml
from licences import allowed, licence_of
from lock import read_lock

pytest.importorskip("cyclonedx", reason="cyclonedx-bom is not here: make install")
import sbom

DIGEST = "sha256:" + "ab" * 32
RULES = yaml.safe_load(licences.RULES.read_text())


def test_the_bill_of_an_image_names_its_inputs_and_fits_the_schema():
    document = json.loads(sbom.written(sbom.bill("cuda", DIGEST, "0.1.0")))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["bom-ref"]: part for part in document["components"]}
    assert parts["base"]["version"] == DIGEST and parts["base"]["type"] == "container"
    assert parts["file:cluster/image/Dockerfile"]["hashes"][0]["alg"] == "SHA-256"
    torch = parts[next(name for name in parts if name.startswith("pkg:pypi/torch@"))]
    said = {each["content"] for each in torch["externalReferences"][0]["hashes"]}
    assert said == set(sbom.SHA256.findall(read_lock()["torch"][0]))
    assert all(len(each["dependsOn"]) == len(parts) for each in document["dependencies"] if each["ref"] == "image")


def test_a_bill_without_a_digest_is_refused(tmp_path, capsys):
    argv = ["--target", "cuda", "--base-digest", "3.11-slim", "--output", str(tmp_path / "x.json")]
    assert sbom.main(argv) == 2
    assert "is no digest of the base image: make sbom BASE_DIGEST=" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_licence_of_every_package_is_known_and_allowed():
    found = licences.licences(RULES, (entry for entries in read_lock().values() for entry in entries))
    missing = [each.package for each in found if "is not installed here" in each.fault]
    assert [each for each in found if each.fault and each.package not in missing] == []
    assert not missing, f"make install: {missing}"


EXPRESSIONS = {
    "MIT": True,
    "MIT AND Apache-2.0": True,
    "GPL-3.0-only OR MIT": True,
    "MIT AND GPL-3.0-only": False,
    "AGPL-3.0-only": False,
    "(MIT OR GPL-3.0-only) AND Zlib": False,
    "Apache-2.0 WITH LLVM-exception": True,
    "GPL-2.0-only WITH Classpath-exception-2.0": False,
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_kept_or_not(expression):
    assert allowed(expression, RULES["allowed"]) is EXPRESSIONS[expression]


class About:
    def __init__(self, **fields):
        self.json = fields

    def get_all(self, name):
        return self.json.get("classifier")


REFUSED = {
    "no licence": (About(), "names no licence"),
    "a sentence": (About(license="see the file"), "names no licence"),
    "denied": (About(license_expression="AGPL-3.0-or-later"), "is under AGPL-3.0-or-later, which"),
    "denied by classifier": (About(classifier=["License :: OSI Approved :: GNU AGPL"]), "names no licence"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_unknown_or_denied_licence_is_refused(case, monkeypatch):
    about, said = REFUSED[case]
    monkeypatch.setattr(licences.metadata, "metadata", lambda name: about)
    assert said in licence_of(RULES, "anything", "1").fault


def test_an_exception_counts_for_the_licence_that_it_names_alone(monkeypatch):
    monkeypatch.setattr(licences.metadata, "metadata", lambda name: About(license_expression="AGPL-3.0-only"))
    assert "is under AGPL-3.0-only now" in licence_of(RULES, "moocore", "1").fault


def test_every_exception_has_a_reason():
    assert all(len(rule["reason"]) > 20 and rule["licence"] for rule in RULES["exceptions"].values())
