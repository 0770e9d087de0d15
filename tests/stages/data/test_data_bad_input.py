"""What a person hears of a source that is wrong: each row of the table is one mistake, made in a real file."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rayml.errors import PlanError, StageError
from rayml.stages.data.stage import refuse_duplicates

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

ROWS = 30
HEADER = "Alter,größe,label"
CSV = {"kind": "csv", "path": "t.csv"}
CSV_FOLDER = {"kind": "csv", "path": "t"}
PARQUET = {"kind": "parquet", "path": "t.parquet"}
FOLDER = {"kind": "image_folder", "path": "bilder"}
CODE = {"kind": "callable", "function": "rows:f"}
IMAGES = {"task": "image_classification"}


def lines(change: dict[int, str] | None = None, header: str = HEADER) -> str:
    rows = [f"{row},{row / 2},{'ab'[row % 2]}" for row in range(ROWS)]
    for row, text in (change or {}).items():
        rows[row] = text
    return "\n".join([header, *rows]) + "\n"


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return act


def parquet(**columns) -> Callable[[Path], None]:
    whole = {"x": list(range(ROWS)), "label": [0, 1] * (ROWS // 2), **columns}
    return lambda folder: pq.write_table(pa.table(whole), folder / "t.parquet")


def cut_parquet(folder: Path) -> None:
    parquet()(folder)
    path = folder / "t.parquet"
    path.write_bytes(path.read_bytes()[:-30])


def damaged_parquet(folder: Path) -> None:
    pq.write_table(pa.table({"x": np.arange(5000.0), "label": np.arange(5000) % 2}), folder / "t.parquet")
    path = folder / "t.parquet"
    data = bytearray(path.read_bytes())
    data[100:4000] = bytes(3900)
    path.write_bytes(data)


def picture(height: int = 4, width: int = 4, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG")
    return file.getvalue()


def pictures(**others: bytes) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        for number in range(8):
            write(f"bilder/{'ab'[number % 2]}/{number}.png", picture())(folder)
        for name, content in others.items():
            write(f"bilder/b/{name}.png", content)(folder)

    return act


def code(body: str) -> Callable[[Path], None]:
    return write("rows.py", f"import numpy as np\ndef f(**args):\n    {body}\n")


nothing: Callable[[Path], None] = lambda folder: None  # noqa: E731

TABLE = [
    ("no file", nothing, CSV, {}, r"t\.csv cannot be read: No such file"),
    ("no rows", write("t.csv", HEADER + "\n"), CSV, {}, "t.csv: the file has no rows"),
    ("empty file", write("t.csv", ""), CSV, {}, "t.csv: cannot be read: Empty CSV file"),
    ("no rows in Parquet", parquet(x=pa.array([], pa.int8()), label=pa.array([], pa.int8())), PARQUET, {}, "no rows"),
    ("one class", parquet(label=["rot"] * ROWS), PARQUET, {}, f"all {ROWS} rows have the label `label` = rot"),
    (
        "label absent",
        write("t.csv", lines()),
        CSV,
        {"label": "lable"},
        r"no column `lable`.*\n  did you mean `label`\?",
    ),
    ("empty label", write("t.csv", lines({7: "1,2,", 9: "1,2,"})), CSV, {}, "t.csv row 7, 9: label `label` is missing"),
    ("null label", parquet(label=[*[0, 1] * 14, None, 1]), PARQUET, {}, "t.parquet row 28: label `label` is missing"),
    ("NaN label", parquet(label=[*[0.0, 1.0] * 14, np.nan, 1]), PARQUET, {}, "row 28: label `label` is missing"),
    ("half a label", parquet(label=[*[0.0, 1.0] * 14, 0.5, 1]), PARQUET, {}, "row 28: label `label` is not a whole"),
    ("infinite label", parquet(label=[*[0.0, 1.0] * 14, np.inf, 1]), PARQUET, {}, "row 28: .* not a whole number"),
    (
        "half a label in CSV",
        write("t.csv", "x,label\n" + "1,0\n2,1\n" * 9 + "3,1.5\n"),
        CSV,
        {},
        r"t.csv row 18: .* 1\.5",
    ),
    ("label of dates", parquet(label=pa.array([1, 2] * 15, pa.timestamp("s"))), PARQUET, {}, r"holds timestamp\[ms\]"),
    ("rare class", parquet(label=["a"] * (ROWS - 2) + ["b"] * 2), PARQUET, {}, "class `b` has 2"),
    (
        "empty number",
        write("t.csv", lines({17: ",2,a"})),
        CSV,
        {},
        "t.csv: row 17 column `Alter`: the value is missing",
    ),
    ("NaN", parquet(x=[1.0] * 20 + [np.nan] * 10), PARQUET, {}, "row 20 column `x`; .*row 24 column `x` and 5 more: "),
    ("infinity", parquet(x=[np.inf] + [1.0] * 29), PARQUET, {"missing": "mean"}, "row 0 column `x`: .* not a finite"),
    ("too large", parquet(x=[1e39] + [1.0] * 29), PARQUET, {}, "row 0 column `x`: .* not a finite float32 number"),
    ("text in a number", write("t.csv", lines({17: "1,x,a"})), CSV, {}, "t.csv row 17 column `größe`: .*'x'"),
    ("short row", write("t.csv", lines({17: "1,2"})), CSV, {}, "t.csv row 17: Expected 3 columns, got 2: 1,2"),
    (
        "not UTF-8",
        write("t.csv", lines().encode("latin-1")),
        CSV,
        {"columns": ["Alter"]},
        "t.csv: cannot be read: .*\n.*save the file as UTF-8",
    ),
    ("column of text", parquet(farbe=["rot"] * ROWS), PARQUET, {"columns": ["x", "farbe"]}, "`farbe` holds string"),
    ("column absent", parquet(), PARQUET, {"columns": ["X"]}, r"no column `X` .from data.columns.; found x .int64."),
    ("label as feature", parquet(), PARQUET, {"columns": ["x", "label"]}, "`label` is the label and a feature"),
    ("same name twice", write("t.csv", lines(header="x,x,label")), CSV, {}, "two columns are called `x`"),
    ("only text", parquet(x=["rot"] * ROWS), PARQUET, {}, "no column of numbers beside the label"),
    ("cut Parquet", cut_parquet, PARQUET, {}, "t.parquet: cannot be read: .*\n.*damaged"),
    ("damaged Parquet", damaged_parquet, PARQUET, {}, "t.parquet: cannot be read: .*\n.*damaged"),
    (
        "CSV called Parquet",
        write("t.parquet", lines()),
        PARQUET,
        {},
        "t.parquet: cannot be read: .*\n.*not of this kind",
    ),
    ("images from CSV", write("t.csv", lines()), CSV, IMAGES, "t.csv: a CSV file holds no images"),
    ("images from numbers", parquet(), PARQUET, IMAGES, "needs a column of image files .* found x .int64."),
    (
        "images from iris",
        nothing,
        {"kind": "sklearn", "name": "iris"},
        IMAGES,
        "sklearn/iris: .*needs a column of image",
    ),
    ("table from digits", nothing, {"kind": "sklearn", "name": "digits"}, {}, "sklearn/digits: no column of numbers"),
    ("table from images", pictures(), FOLDER, {}, "bilder: a folder of images is no table"),
    ("not an image", pictures(x=b"hallo"), FOLDER, IMAGES, r"bilder/b/x\.png: not an image"),
    ("cut image", pictures(x=picture(64, 64)[:60]), FOLDER, IMAGES, r"bilder/b/x\.png: the image is damaged"),
    (
        "two sizes",
        pictures(x=picture(4, 5)),
        FOLDER,
        IMAGES,
        r"b/x\.png: .* 4 x 5 pixels, and bilder/a/0\.png has 4 x 4",
    ),
    (
        "gray and color",
        pictures(x=picture(mode="L")),
        FOLDER,
        IMAGES,
        r"x\.png: the image is gray, and bilder/a/0\.png is",
    ),
    ("one class folder", write("bilder/a/1.png", picture()), FOLDER, IMAGES, "all 1 rows have the label `label` = a"),
    ("bad bytes", parquet(x=[b"x"] * ROWS), PARQUET, IMAGES, "t.parquet row 0: not an image"),
    ("no bytes", parquet(x=[picture()] * 29 + [None]), PARQUET, IMAGES, "t.parquet row 29: the image `x` is missing"),
    ("two image columns", parquet(x=[b"x"] * ROWS, y=[b"x"] * ROWS), PARQUET, IMAGES, r"\['x', 'y'\] hold images"),
    ("no module", nothing, CODE, {}, "MODULE:f: no module 'MODULE' in"),
    ("no function", write("rows.py", "g = 1\n"), CODE, {}, "MODULE:f: .*MODULE.py has no 'f'"),
    ("not a function", write("rows.py", "f = 1\n"), CODE, {}, "MODULE:f: 'f' is a int, which cannot be called"),
    ("module fails", write("rows.py", "1 / 0\n"), CODE, {}, "MODULE:f: the module fails on import: ZeroDivisionError"),
    (
        "function fails",
        code("yield from [1 / 0]"),
        CODE,
        {},
        r"the function raised ZeroDivisionError: .*MODULE.py line 3",
    ),
    ("not a table", code("yield 3"), CODE, {}, "the function yields int; pyarrow Tables and dicts of arrays fit"),
    (
        "uneven",
        code("yield {'x': [1, 2], 'label': [1]}"),
        CODE,
        {},
        r"the arrays make no table: .*x \(2,\), label \(1,\)",
    ),
    ("nothing returned", code("pass"), CODE, {}, "MODULE:f: the function returned NoneType, which yields no tables"),
    ("function exits", code("import sys; sys.exit('bye')"), CODE, {}, r"raised SystemExit: bye \(MODULE.py line 3\)"),
    ("no rows yielded", code("return []"), CODE, {}, "MODULE:f: the function yields no rows"),
    (
        "later NaN",
        code("for x in (1.0, np.nan): yield {'x': [x], 'label': [1]}"),
        CODE,
        {},
        "MODULE:f: row 1 column `x`",
    ),
]


@pytest.mark.parametrize(
    ("prepare", "source", "config", "message"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_a_mistake_is_named(run_data, tmp_path, prepare, source, config, message) -> None:
    prepare(tmp_path)
    if source["kind"] == "callable":
        # Ray's workers live on, and with them the modules that they imported: each mistake has one of its own.
        name = f"rows_{abs(hash(message))}"
        if (tmp_path / "rows.py").exists():
            (tmp_path / "rows.py").rename(tmp_path / f"{name}.py")
        source, message = {**source, "function": f"{name}:f"}, message.replace("MODULE", name)
    with pytest.raises((StageError, PlanError), match=message) as raised:
        run_data(source, code=tmp_path, **config)
    assert type(raised.value) in (StageError, PlanError)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("Alter,label\n1,a\n2,b\n", r"t/b\.csv: no column `größe` .from the first file.; found Alter"),
        ("größe,Alter,label\nrot,1,a\n", r"t/b\.csv row 0 column `größe`: .*'rot'"),
    ],
)
def test_files_that_differ(run_data, tmp_path: Path, second: str, message: str) -> None:
    write("t/a.csv", lines())(tmp_path)
    write("t/b.csv", second)(tmp_path)
    with pytest.raises(StageError, match=message):
        run_data(CSV_FOLDER)


def test_parquet_files_that_differ(run_data, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table({"x": [1, 2], "label": [0, 1]}), tmp_path / "t" / "a.parquet")
    pq.write_table(pa.table({"x": ["rot", "blau"], "label": [0, 1]}), tmp_path / "t" / "b.parquet")
    with pytest.raises(StageError, match=r"t/b\.parquet: the column `x` holds text here and numbers in the first file"):
        run_data({"kind": "parquet", "path": "t"})


def test_columns_in_another_order_and_an_empty_file_are_no_mistake(run_data, tmp_path: Path) -> None:
    write("t/a.csv", lines())(tmp_path)
    write("t/b.csv", "label,größe,Alter,mehr\na,1,2,x\nb,3,4,y\n")(tmp_path)
    write("t/c.csv", HEADER + "\n")(tmp_path)
    outcome, _ = run_data(CSV_FOLDER)
    assert outcome.metrics["rows"] == ROWS + 2


def test_two_rows_with_one_id_are_named() -> None:
    with pytest.raises(StageError, match=r"at \[1\]: the row has the sample id 5, and so has at \[3\]"):
        refuse_duplicates(np.array([4, 5, 6, 5]), lambda positions: f"at {positions}")
    refuse_duplicates(np.array([4, 5, 6]), str)
