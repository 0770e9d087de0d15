"""Wrong job files, and the line, path and sentence that their author gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayml.errors import SpecError
from rayml.spec.load import load_job

JOB = """\
name: digits
seed: 7
data:
  source: {kind: sklearn, name: digits}
  split: {train: 0.8, val: 0.1, test: 0.1}
task: {kind: image_classification}
model: {kind: small_cnn}
train:
  workers: 2
  epochs: 15
  optimizer: {kind: adamw, lr: 2.0e-3}
export: {formats: [onnx]}
evaluate: {gates: {accuracy: ">= 0.95"}}
serve:
  replicas: {min: 1, max: 2}
"""

ROWS = [
    (10, "  epoch: 15", ["10: train.epoch: no such field; did you mean `epochs`?"]),
    (8, "trian:", ["8: trian: no such field; did you mean `train`?"]),
    (1, "name: digits\nlr: 3", ["2: lr: no such field here; did you mean `train.optimizer.lr`?"]),
    (10, "  lr: 3", ["10: train.lr: no such field here; did you mean `train.optimizer.lr`?"]),
    (
        10,
        "  zzz: 3",
        [
            "10: train.zzz: no such field; the fields here are `workers`, `strategy`, `epochs`, `batch_size`, `optimizer`, `best`, `checkpoint` and `retries`"
        ],
    ),
    (
        1,
        "name: digits\nzzz: 3",
        [
            "2: zzz: no such field; the fields here are `name`, `seed`, `code`, `data`, `task`, `model`, `train`, `export`, `evaluate` and `serve`"
        ],
    ),
    (
        11,
        "  optimizer: {kind: sgd, betas: [0.9, 0.99]}",
        ["11: train.optimizer.betas: no such field of kind `sgd`, but of `adamw`"],
    ),
    (
        11,
        "  optimizer:\n    kind: adamw\n    learning_rate: 1",
        [
            "13: train.optimizer.learning_rate: no such field; the fields here are `kind`, `lr`, `weight_decay` and `betas`"
        ],
    ),
    (
        4,
        "  source: {kind: csv, path: x.csv, name: digits}",
        ["4: data.source.name: no such field of kind `csv`, but of `sklearn`"],
    ),
    (
        1,
        "seed: 8",
        [
            "1: name: missing; write a name of at most 40 of a-z, 0-9 and `-`, with no `-` at its ends",
            "2: seed: written twice, first in line 1; keep one of them",
        ],
    ),
    (1, "# no name", ["2: name: missing; write a name of at most 40 of a-z, 0-9 and `-`, with no `-` at its ends"]),
    (6, "task: {}", ["6: task.kind: missing; write `image_classification` or `tabular_classification`"]),
    (
        4,
        "  label: klasse",
        [
            "3: data.source: missing; write a section with `kind: sklearn`, `kind: parquet`, `kind: csv`, `kind: image_folder` or `kind: callable`"
        ],
    ),
    (
        4,
        "  source: {kind: sklearn}",
        ["4: data.source.name: missing; write `digits`, `breast_cancer`, `wine` or `iris`"],
    ),
    (4, "  source: {kind: csv}", ["4: data.source.path: missing; write text of at least one character"]),
    (11, "  optimizer: {lr: 1.0e-3}", ["11: train.optimizer.kind: missing; write `adamw` or `sgd`"]),
    (
        4,
        "  source: {kind: sklaern, name: digits}",
        [
            '4: data.source.kind: "sklaern" is not `sklearn`, `parquet`, `csv`, `image_folder` or `callable`; did you mean `sklearn`?'
        ],
    ),
    (
        4,
        "  source: {kind: postgres}",
        ['4: data.source.kind: "postgres" is not `sklearn`, `parquet`, `csv`, `image_folder` or `callable`'],
    ),
    (
        6,
        "task: image_classification",
        [
            '6: task: "image_classification" is not a section with `kind: image_classification` or `kind: tabular_classification`; did you mean `{kind: image_classification}`?'
        ],
    ),
    (
        6,
        "task: image_clasification",
        [
            '6: task: "image_clasification" is not a section with `kind: image_classification` or `kind: tabular_classification`; did you mean `{kind: image_classification}`?'
        ],
    ),
    (7, "model: {kind: 3}", ["7: model.kind: 3 is not `small_cnn`, `mlp` or `callable`"]),
    (7, "model: {kind: [mlp]}", ['7: model.kind: ["mlp"] is not `small_cnn`, `mlp` or `callable`']),
    (7, "model: [mlp]", ['7: model: ["mlp"] is not a section with `kind: small_cnn`, `kind: mlp` or `kind: callable`']),
    (9, "  strategy: {kind: dpp}", ['9: train.strategy.kind: "dpp" is not `ddp`; did you mean `ddp`?']),
    (9, "  strategy: {}", ["9: train.strategy.kind: missing; write `ddp`"]),
    (9, "  workers: 0", ["9: train.workers: 0 is not a whole number of at least 1 or `auto`"]),
    (9, "  workers: 2.5", ["9: train.workers: 2.5 is not a whole number of at least 1 or `auto`"]),
    (9, "  workers: many", ['9: train.workers: "many" is not a whole number of at least 1 or `auto`']),
    (
        9,
        "  workers: atuo",
        ['9: train.workers: "atuo" is not a whole number of at least 1 or `auto`; did you mean `auto`?'],
    ),
    (2, "seed: -1", ["2: seed: -1 is not a whole number of at least 0 and below 4294967296"]),
    (2, "seed: 4294967296", ["2: seed: 4294967296 is not a whole number of at least 0 and below 4294967296"]),
    (11, "  optimizer: {kind: adamw, lr: 0}", ["11: train.optimizer.lr: 0 is not a number above 0"]),
    (11, "  optimizer: {kind: adamw, lr: -1e-3}", ["11: train.optimizer.lr: -1e-3 is not a number above 0"]),
    (
        7,
        "model: {kind: small_cnn, width: 30}",
        ["7: model.width: 30 is not a whole number from 4 to 1024 and a multiple of 4"],
    ),
    (7, "model: {kind: small_cnn, dropout: 1}", ["7: model.dropout: 1 is not a number of at least 0 and below 1"]),
    (15, "  port: 70000", ["15: serve.port: 70000 is not a whole number from 1 to 65535 or `auto`"]),
    (13, "evaluate: {bootstrap: 10}", ["13: evaluate.bootstrap: 10 is not a whole number from 100 to 100000"]),
    (
        2,
        "seed: 123456789012345678901234567890",
        ["2: seed: 123456789012345678901234567890 is not a whole number of at least 0 and below 4294967296"],
    ),
    (
        1,
        "name: 7",
        ['1: name: 7 is not a name of at most 40 of a-z, 0-9 and `-`, with no `-` at its ends; put it in quotes: "7"'],
    ),
    (1, "name: Zähler", ['1: name: "Zähler" is not a name of at most 40 of a-z, 0-9 and `-`, with no `-` at its ends']),
    (1, 'name: ""', ['1: name: "" is not a name of at most 40 of a-z, 0-9 and `-`, with no `-` at its ends']),
    (2, "seed: sieben", ['2: seed: "sieben" is not a whole number of at least 0 and below 4294967296']),
    (2, "seed: true", ["2: seed: true is not a whole number of at least 0 and below 4294967296"]),
    (2, "seed: [7]", ["2: seed: [7] is not a whole number of at least 0 and below 4294967296"]),
    (2, "seed: null", ["2: seed: null is not a whole number of at least 0 and below 4294967296"]),
    (10, "  epochs: yes", ['10: train.epochs: "yes" is not a whole number of at least 1']),
    (
        3,
        "data: digits.csv\nsplit:",
        [
            '3: data: "digits.csv" is not a section with the fields `source`, `label`, `image`, `columns`, `normalize`, `missing`, `split` and `shard_rows`',
            "4: split: no such field here; did you mean `data.split` or `evaluate.split`?",
        ],
    ),
    (
        8,
        "train: 3\nignored:",
        [
            "8: train: 3 is not a section with the fields `workers`, `strategy`, `epochs`, `batch_size`, `optimizer`, `best`, `checkpoint` and `retries`",
            "9: ignored: no such field; the fields here are `name`, `seed`, `code`, `data`, `task`, `model`, `train`, `export`, `evaluate` and `serve`",
        ],
    ),
    (12, "export: {formats: onnx}", ['12: export.formats: "onnx" is not a list of 1 or more, each `onnx`']),
    (12, "export: {formats: [onnx, tflite]}", ['12: export.formats.1: "tflite" is not `onnx`']),
    (12, "export: {formats: []}", ["12: export.formats: [] is not a list of 1 or more, each `onnx`"]),
    (
        11,
        "  optimizer: {kind: adamw, betas: [0.9]}",
        ["11: train.optimizer.betas.1: missing; write a number of at least 0 and below 1"],
    ),
    (
        11,
        "  optimizer: {kind: adamw, betas: [0.9, 1.5]}",
        ["11: train.optimizer.betas.1: 1.5 is not a number of at least 0 and below 1"],
    ),
    (
        11,
        "  optimizer: {kind: adamw, betas: [0.9, true]}",
        ["11: train.optimizer.betas.1: true is not a number of at least 0 and below 1"],
    ),
    (5, "  image: {size: [8, x]}", ['5: data.image.size.1: "x" is not a whole number above 0']),
    (5, "  image: {size: [8, 0]}", ["5: data.image.size.1: 0 is not a whole number above 0"]),
    (
        5,
        "  image: {size: 8}",
        ["5: data.image.size: 8 is not a list of 2 entries, each a whole number above 0, or `auto`"],
    ),
    (5, "  image: {channels: 4}", ["5: data.image.channels: 4 is not 1, 3 or `auto`"]),
    (5, "  columns: [alter, 7]", ['5: data.columns.1: 7 is not text of at least one character; put it in quotes: "7"']),
    (
        5,
        "  columns: []",
        ["5: data.columns: [] is not a list of 1 or more, each text of at least one character, or `auto`"],
    ),
    (5, "  label: ''", ['5: data.label: "" is not text of at least one character']),
    (7, "model:\n  kind: mlp\n  hidden:\n    - 64\n    - -1", ["11: model.hidden.1: -1 is not a whole number above 0"]),
    (
        4,
        "  source: {kind: callable, function: my rows}",
        ['4: data.source.function: "my rows" is not `module:function`'],
    ),
    (
        4,
        "  source: {kind: callable, function: m:f, args: 3}",
        ["4: data.source.args: 3 is not a section of `key: value`"],
    ),
    (15, "  auth: Bearer", ['15: serve.auth: "Bearer" is not `bearer` or `none`; did you mean `bearer`?']),
    (
        2,
        "seed: 9999999999999999999999999999999999999999999999999999999999999999999999",
        [
            "2: seed: 9999999999999999999999999999999999999...99999999999999999999 is not a whole number of at least 0 and below 4294967296"
        ],
    ),
    (
        1,
        "name: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        [
            '1: name: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxxx" is not a name of at most 40 of a-z, 0-9 and `-`, with no `-` at its ends'
        ],
    ),
    (
        5,
        "  split: {train: 0.8, val: 0.1, test: 0.2}",
        ["5: data.split: train + val + test is 1.1; the shares must sum to 1"],
    ),
    (5, "  split: {train: 0.5}", ["5: data.split: train + val + test is 0.7; the shares must sum to 1"]),
    (15, "  replicas: {min: 3, max: 2}", ["15: serve.replicas: max is 2, below min, which is 3"]),
    (
        15,
        "  max_body: 10 parsecs",
        ['15: serve.max_body: "10 parsecs" is not a size; write a number with B, KB, MB, GB, KiB, MiB or GiB'],
    ),
    (15, "  max_body: 0", ["15: serve.max_body: 0 is not a size such as `512MiB`"]),
    (
        15,
        "  max_body: ten",
        ['15: serve.max_body: "ten" is not a size; write a number with B, KB, MB, GB, KiB, MiB or GiB'],
    ),
    (
        13,
        "evaluate: {gates: {accuracy: 0.95}}",
        ['13: evaluate.gates.accuracy: 0.95 is not a comparison and a number, such as ">= 0.95"'],
    ),
    (
        13,
        'evaluate: {gates: {accuracy: "0.95"}}',
        ['13: evaluate.gates.accuracy: "0.95" is not a comparison and a number, such as ">= 0.95"'],
    ),
    (
        13,
        'evaluate: {gates: {acuracy: ">= 0.95"}}',
        [
            '13: evaluate.gates.acuracy: "acuracy" is not `accuracy`, `precision_macro`, `recall_macro`, `f1_macro`, `precision_weighted`, `recall_weighted`, `f1_weighted` or `roc_auc`; did you mean `accuracy`?'
        ],
    ),
    (
        13,
        'evaluate: {gates: {accuracy: ">= 1e999"}}',
        ['13: evaluate.gates.accuracy: ">= 1e999" has a bound that is too large a number'],
    ),
    (7, "# no model", ["8: train: needs a `model` section, and the file has none"]),
    (2, "seed: 7\nseed: 8", ["3: seed: written twice, first in line 2; keep one of them"]),
    (
        11,
        "  optimizer: {kind: sgd, lr: 1, lr: 2}",
        ["11: train.optimizer.lr: written twice, first in line 11; keep one of them"],
    ),
    (11, "  optimizer: {kind:sgd}", ["11: train.optimizer: write `kind: sgd`, with a space after the `:`"]),
    (
        12,
        "export:",
        ["12: export: nothing stands here; write a value, `{}` for a section as it is by default, or `null` for none"],
    ),
    (
        2,
        "seed:",
        ["2: seed: nothing stands here; write a value, `{}` for a section as it is by default, or `null` for none"],
    ),
    (2, "seed: .nan", ["2: seed: .nan is not a finite number"]),
    (2, "seed: .inf", ["2: seed: .inf is not a finite number"]),
    (2, "seed: 1e999", ["2: seed: 1e999 is too large a number"]),
    (2, "seed: !!int 7", ["2: seed: the tag `!!int` is not read; write plain values"]),
    (
        2,
        'seed: !!python/object/apply:os.system ["true"]',
        ["2: seed: the tag `!!python/object/apply:os.system` is not read; write plain values"],
    ),
    (
        2,
        "seed: *sieben",
        ["2: seed: no value before this one is named `&sieben`; put text that starts with `*` in quotes"],
    ),
    (2, "\tseed: 7", ["2: a tab; YAML is indented with spaces"]),
    (9, "\tworkers: 2", ["9: a tab; YAML is indented with spaces"]),
    (9, "    workers: 2", ["10: not indented like its neighbours, or not `key: value`"]),
    (
        9,
        " workers: 2",
        ["10: a `:` too many, wrong indentation, or no `:` in the line above; text that holds `: ` needs quotes"],
    ),
    (
        9,
        "  workers 2",
        ["10: a `:` too many, wrong indentation, or no `:` in the line above; text that holds `: ` needs quotes"],
    ),
    (
        1,
        "name: a: b",
        ["1: a `:` too many, wrong indentation, or no `:` in the line above; text that holds `: ` needs quotes"],
    ),
    (11, "  optimizer: {kind: sgd", ["11: a bracket is opened here and not closed, or a comma is missing"]),
    (1, "name: 'digits", ["1: a quote is opened here and not closed"]),
    (1, "name: @digits", ["1: a value cannot start with @; put it in quotes"]),
    (13, "evaluate: {gates: {accuracy: >= 0.95}}", ["13: a value cannot start with >; put it in quotes"]),
    (13, "evaluate:\n  gates:\n    accuracy: >= 0.95", ["15: text that starts with `>` or `|` needs quotes"]),
    (12, "export: {formats: [onnx]]}", ["12: a bracket is opened here and not closed, or a comma is missing"]),
    (
        12,
        'export: {formats: ["C:\\data"]}',
        ["12: a `\\` in double quotes starts an escape such as `\\n`; use single quotes"],
    ),
    (2, "<<: {seed: 8}", ["2: merge keys (`<<`) are not read; write the fields out"]),
    (2, "[a]: 8", ["2: a key has to be one word"]),
    (2, "---\nseed: 8", ["2: a second document starts here; a file holds one"]),
    (4, "  source: {kind: csv, path: ${env:DATA}}", ["4: inside brackets `${env:NAME}` needs quotes"]),
    (2, "seed: 7 \x07", ["2: the character U+0007 cannot stand in a text file"]),
    (
        1,
        "name: ${env:JOB_NAME}",
        ['1: name: "Zähler 1" is not a name of at most 40 of a-z, 0-9 and `-`, with no `-` at its ends'],
    ),
    (
        4,
        "  source:\n    kind: csv\n    path: /data/${env:NOT_SET}/x.csv",
        ["6: data.source.path: the environment variable `NOT_SET` is not set; `export NOT_SET=...` sets it"],
    ),
    (
        1,
        "name: ${env:HF_TOKEN}",
        [
            "1: name: `HF_TOKEN` looks like a secret, and the values of a job file are kept with its run; let the code that needs it read it from the environment"
        ],
    ),
    (
        1,
        "name: ${env:DATABASE_PASSWORD}",
        [
            "1: name: `DATABASE_PASSWORD` looks like a secret, and the values of a job file are kept with its run; let the code that needs it read it from the environment"
        ],
    ),
    (1, "name: ${env:}", ["1: name: `` is not the name of an environment variable; letters, digits and `_` fit"]),
    (
        1,
        "name: ${env:JOB NAME}",
        ["1: name: `JOB NAME` is not the name of an environment variable; letters, digits and `_` fit"],
    ),
    (
        1,
        "name: ${env:JOB_NAME",
        ["1: name: `${env:` has no `}`; write `${env:NAME}`, or `$${env:` for the text itself"],
    ),
    (
        1,
        "name: ${env:EMPTY}",
        ["1: name: nothing stands here; write a value, `{}` for a section as it is by default, or `null` for none"],
    ),
    (10, "  epochs: ${env:JOB_NAME}", ['10: train.epochs: "Zähler 1" is not a whole number of at least 1']),
]


@pytest.mark.parametrize(("number", "written", "problems"), ROWS, ids=[row[1].strip()[:40] for row in ROWS])
def test_every_problem_has_its_line_path_and_sentence(
    tmp_path: Path, number: int, written: str, problems: list[str]
) -> None:
    path = tmp_path / "job.yaml"
    lines = JOB.splitlines()
    lines[number - 1] = written
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_job(path, environ={"JOB_NAME": "Zähler 1", "EMPTY": ""})
    assert str(caught.value).splitlines() == [f"{path}:{problem}" for problem in problems]


def test_the_unchanged_job_is_right(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB, encoding="utf-8")
    assert load_job(path).name == "digits"


def test_all_problems_are_told_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    text = (
        JOB.replace("workers: 2", "workers: 0").replace("kind: small_cnn", "kind: resnet").replace("seed: 7", "seed:")
    )
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_job(path, ["train.lrr=1", "serve.port=0"])
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (2, "seed"),
        (7, "model.kind"),
        (9, "train.workers"),
        (None, "train.lrr"),
        (None, "serve.port"),
    ]
    assert "--set serve.port=0: serve.port: 0 is not a whole number from 1 to 65535, or `auto`" in str(caught.value)


def test_a_problem_inside_an_alias_has_the_line_of_the_anchor(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    text = JOB.replace("model: {kind: small_cnn}", "model: &net {kind: mlp, hidden: [0]}").replace(
        "  epochs: 15", "  best: *net"
    )
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_job(path)
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (7, "model.hidden.0"),
        (7, "train.best.kind"),
        (7, "train.best.hidden"),
    ]
