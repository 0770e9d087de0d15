"""Reading a job file: overrides, environment variables, files that are no job files, and what it costs to import."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from rayml.errors import SpecError, error_from_json
from rayml.spec.cluster import CLUSTERS as KINDS
from rayml.spec.cluster import LocalCluster
from rayml.spec.load import load_cluster, load_job
from rayml.spec.tree import MAX_BYTES

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
CLUSTERS = sorted((ROOT / "cluster").glob("*.yaml"))


def problems_of(path: Path, *overrides: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_job(path, overrides, environ)
    return [str(problem).removeprefix(f"{path}: ").removeprefix(f"{path}:") for problem in caught.value.problems]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_shipped_jobs_load(path: Path) -> None:
    assert load_job(path).name


@pytest.mark.parametrize("path", [None, *CLUSTERS], ids=lambda path: path.name if path else "none")
def test_shipped_clusters_load(path: Path | None) -> None:
    assert load_cluster(path).kind in KINDS


def test_cluster_without_a_file_takes_overrides() -> None:
    assert load_cluster(None) == LocalCluster()
    assert load_cluster(None, ["gpus=8", "object_store=32GiB"]) == LocalCluster(gpus=8, object_store=32 * 2**30)
    with pytest.raises(SpecError, match=r"^--set gpu=8: gpu: no such field; did you mean `gpus`\?$"):
        load_cluster(None, ["gpu=8"])


def test_cluster_problems_name_their_line(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("# two\nkind: locl\ncpus: -1\n")
    with pytest.raises(SpecError) as caught:
        load_cluster(path)
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [(2, "kind"), (3, "cpus")]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.optimizer.lr=1e-4", "train.optimizer.lr", 1e-4),
        ("train.optimizer.betas=[0.8, 0.99]", "train.optimizer.betas", (0.8, 0.99)),
        ("train.checkpoint.keep=5", "train.checkpoint.keep", 5),
        ("train.checkpoint={every_steps: 10, keep: 3}", "train.checkpoint.every_steps", 10),
        ("train.workers=auto", "train.workers", "auto"),
        ("evaluate.gates.accuracy=>= 0.9", "evaluate.gates", {"accuracy": ">= 0.9"}),
        ("evaluate.gates.f1_macro=> 0.5", "evaluate.gates", {"accuracy": ">= 0.95", "f1_macro": "> 0.5"}),
        ("serve.max_body=1MiB", "serve.max_body", 2**20),
        ("serve=null", "serve", None),
        ('name="7"', "name", "7"),
        ("data.label=a=b # c", "data.label", "a=b # c"),
        ("data.label=größe: m²", "data.label", "größe: m²"),
        (" seed = 3 ", "seed", 3),
        ("data.split.stratify=${env:STRATIFY}", "data.split.stratify", "none"),
    ],
)
def test_an_override_replaces_one_value(job_file: Path, override: str, path: str, value: object) -> None:
    found: object = load_job(job_file, [override], {"STRATIFY": "none"})
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value


def test_the_last_override_of_a_value_wins(job_file: Path) -> None:
    assert load_job(job_file, ["seed=1", "seed=2"]).seed == 2


def test_an_override_makes_the_sections_that_are_missing(job_file: Path) -> None:
    text = job_file.read_text(encoding="utf-8").replace("  optimizer: {kind: adamw, lr: 2.0e-3}\n", "")
    job_file.write_text(text, encoding="utf-8")
    train = load_job(job_file, ["train.optimizer.lr=0.5"]).train
    assert train is not None
    assert (train.optimizer.kind, train.optimizer.lr) == ("adamw", 0.5)
    train = load_job(job_file, ["train.optimizer.lr=0.5", "train.optimizer.kind=sgd"]).train
    assert train is not None
    assert (train.optimizer.kind, train.optimizer.lr) == ("sgd", 0.5)


def test_a_list_entry_is_set_by_its_index(job_file: Path) -> None:
    job = load_job(job_file, ["model={kind: mlp, hidden: [64, 32]}", "model.hidden.1=16"])
    assert job.model is not None
    assert job.model.model_dump()["hidden"] == (64, 16)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.epochs", "--set train.epochs: write a path and a value, such as `--set train.epochs=3`"),
        ("=3", "--set =3: write a path and a value, such as `--set train.epochs=3`"),
        ("train..epochs=3", "--set train..epochs=3: write a path and a value, such as `--set train.epochs=3`"),
        ("train.lrr=3", "--set train.lrr=3: train.lrr: no such field here; did you mean `train.optimizer.lr`?"),
        ("trian.epochs=3", "--set trian.epochs=3: trian: no such field; did you mean `train`?"),
        ("train.epochs=many", '--set train.epochs=many: train.epochs: "many" is not a whole number of at least 1'),
        ("seed.x=3", "--set seed.x=3: seed: 7 is a value and has no fields"),
        (
            "export.formats.4=onnx",
            "--set export.formats.4=onnx: export.formats: `4` is not an entry of this list; its last one is 0",
        ),
        (
            "seed=",
            "--set seed=: seed: nothing stands here; write a value, `{}` for a section as it is by default, "
            "or `null` for none",
        ),
        ("train={epochs: 3", "--set train={epochs: 3: a bracket is opened here and not closed, or a comma is missing"),
        ("train={best: 1, best: 2}", "--set train={best: 1, best: 2}: train.best: written twice; keep one of them"),
        ("seed=\udcff", '--set seed=\\udcff: seed: "\\udcff" is not a whole number of at least 0 and below 4294967296'),
        ("train.optimizer.kind=sgd", None),
        ("model.kind=mlp", "7: model.width: no such field of kind `mlp`, but of `small_cnn` or `transformer`"),
    ],
)  # fmt: skip
def test_wrong_overrides(job_file: Path, override: str, problem: str | None) -> None:
    text = job_file.read_text(encoding="utf-8").replace("{kind: small_cnn}", "{kind: small_cnn, width: 16}")
    job_file.write_text(text, encoding="utf-8")
    if problem is None:
        assert load_job(job_file, [override])
    else:
        assert problems_of(job_file, override) == [problem]


def test_environment_variables_stand_for_text(job_file: Path) -> None:
    text = job_file.read_text(encoding="utf-8")
    text = text.replace(
        "source: {kind: sklearn, name: digits}", 'source: {kind: csv, path: "${env:HOME}/$${env:X}.csv"}'
    )
    text = text.replace("task: {kind: image_", "task: {kind: tabular_").replace("small_cnn", "mlp")
    text = text.replace("epochs: 15", "epochs: ${env:EPOCHS}").replace(
        "name: digits\nseed", "name: run-${env:N}-${env:N}\nseed"
    )
    job_file.write_text(text, encoding="utf-8")
    job = load_job(job_file, environ={"HOME": "/home/zoë", "EPOCHS": "3", "N": "1"})
    assert job.data.source.model_dump()["path"] == "/home/zoë/${env:X}.csv"
    assert job.train is not None
    assert job.train.epochs == 3
    assert job.name == "run-1-1"


def test_the_environment_of_the_process_is_the_default(job_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYML_TEST_SEED", "11")
    assert load_job(job_file, ["seed=${env:RAYML_TEST_SEED}"]).seed == 11


@pytest.mark.parametrize("name", ["TOKENIZER_PATH", "KEYBOARD", "MONKEY_HOME", "PWD", "Z"])
def test_names_that_only_sound_like_secrets_are_read(job_file: Path, name: str) -> None:
    assert load_job(job_file, [f"data.label=${{env:{name}}}"], {name: "größe"}).data.label == "größe"


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "my_password", "OPENAI_KEYS", "GoogleCredentials"]
)
def test_a_secret_is_refused_and_never_shown(job_file: Path, name: str) -> None:
    (problem,) = problems_of(job_file, f"data.label=${{env:{name}}}", environ={name: "hunter2"})
    assert f"`{name}` looks like a secret" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"# nothing\n---\n", "the file is empty"),
        (b"- name: x\n", '1: [{"name": "x"}] is not a file of sections; it starts with a field such as `name: digits`'),
        (b"\n\ndigits\n", '3: "digits" is not a file of sections; it starts with a field such as `name: digits`'),
        (b"name: digits\nseed: \xff\n", "2: the byte 0xFF is not UTF-8; save the file as UTF-8"),
        ("name: größe\n".encode("utf-16"), "1: the byte 0xFF is not UTF-8; save the file as UTF-8"),
        (b"name: digits\n# \x00", "2: the character U+0000 cannot stand in a text file"),
        (b"#" * MAX_BYTES + b"\n", "more than 1048576 bytes; keep data in a file of its own"),
        (b"a: " + b"[" * 65 + b"]" * 65, "1: nested more than 64 deep"),
        (b"a: " + b"[" * 500_000, "1: nested more than 64 deep"),
        (b"- " * 500_000, "1: nested more than 64 deep"),
        (b"{a: " * 200_000, "1: nested more than 64 deep"),
        (b"a: [" + b"1," * 60_000 + b"]", "1: a.49998: more than 50000 values; keep data in a file of its own"),
    ],
)  # fmt: skip
def test_files_that_are_no_job_files(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "größe.yaml"
    path.write_bytes(content)
    (found,) = problems_of(path)
    assert found == problem


def test_a_billion_laughs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10)]
    path.write_text("\n".join(lines))
    (found,) = problems_of(path)
    assert found == "3: a2.8: aliases add more than 1000 values"


def test_aliases_count_towards_the_depth(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"a: &a {'[' * 40}{']' * 40}\nb: {'[' * 40}*a{']' * 40}\n")
    (found,) = problems_of(path)
    assert found == "2: nested more than 64 deep"


def test_files_that_cannot_be_read(tmp_path: Path, job_file: Path) -> None:
    assert problems_of(tmp_path / "jop.yaml") == [f"no such file; did you mean `{job_file}`?"]
    assert problems_of(tmp_path / "none" / "x.yaml") == ["no such file"]
    assert problems_of(tmp_path) == [f"a folder; name a file, such as `{job_file}`"]
    assert problems_of(job_file / "x.yaml") == ["cannot be read: Not a directory"]
    assert problems_of(Path("nul\0byte.yaml")) == ["cannot be read: embedded null byte"]


def test_a_byte_order_mark_is_no_problem(job_file: Path) -> None:
    job_file.write_bytes(b"\xef\xbb\xbf" + job_file.read_bytes().replace(b"\n", b"\r\n"))
    assert load_job(job_file).seed == 7


def test_the_error_reaches_another_process_whole(job_file: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_job(job_file, ["seed=-1", "lr=3"])
    error = caught.value
    assert pickle.loads(pickle.dumps(error)).problems == error.problems
    assert str(error_from_json(error.to_json())) == str(error)


def test_nothing_heavy_is_imported() -> None:
    script = (
        "import sys; from pathlib import Path; from rayml.spec.load import load_job; "
        f"load_job(Path({str(JOBS[0])!r})); import rayml.spec.schema; rayml.spec.schema.job_schema(); "
        "print(sorted({'ray', 'torch', 'numpy', 'pyarrow', 'sklearn', 'onnxruntime'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert run.stdout.strip() == "[]"


def test_a_variable_name_over_two_lines_is_told_in_one(job_file: Path) -> None:
    (problem,) = problems_of(job_file, 'name="${env:A\\nB}"')
    assert problem.endswith("name: `A\\nB` is not the name of an environment variable; letters, digits and `_` fit")
