"""Nothing in rayml unpickles, evaluates or starts a shell, but for the places that are listed with their reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate import FORBIDDEN, faults

ROOT = Path(__file__).parents[2]
TABLE = "a table of rayml's own names to its own modules; the name was checked before"
ALLOWED = {
    ("rayml/ml/usercode.py", "importlib.import_module"): "the user's code, by a checked reference, where the job runs",
    ("rayml/stages/export/formats/table.py", "importlib.import_module"): TABLE,
    ("rayml/stages/train/launchers/table.py", "importlib.import_module"): TABLE,
    ("rayml/stages/train/strategies/table.py", "importlib.import_module"): TABLE,
    ("rayml/stages/table.py", "importlib.import_module"): TABLE,
    ("rayml/stages/compress/passes/table.py", "importlib.import_module"): TABLE,
    ("rayml/bench/table.py", "importlib.import_module"): TABLE,
    ("rayml/lint/schemas.py", "importlib.import_module"): "the one package `cel`, imported late",
    ("rayml/backends/kuberay/api.py", "importlib.import_module"): "the client `kubernetes`, imported late",
}
"""File and name, with the reason. Every entry is used."""


def test_nothing_unsafe_is_called():
    found = {}
    for path in sorted((ROOT / "rayml").rglob("*.py")):
        for line, name, what in faults(path.read_text()):
            found[(str(path.relative_to(ROOT)), name)] = f"{path}:{line}: {name} {what}"
    assert [said for place, said in found.items() if place not in ALLOWED] == []
    assert [place for place in ALLOWED if place not in found] == [], "entries that nothing needs any more"


BAD = [
    *(f"import {name.rpartition('.')[0]}\n{name}(x)" for name in FORBIDDEN if "." in name and "__" not in name),
    *("eval(x)", "exec(x)", "compile(x, 'f', 'exec')", "__import__(x)"),
    "from pickle import loads as l\nl(x)",
    "import pickle as p\np.load(x)",
    "import pickle\nread = pickle.loads",
    "from os import system\nsystem(x)",
    "import torch\ntorch.load(x)",
    "import torch\ntorch.load(x, weights_only=False)",
    "from torch import load\nload(x, map_location='cpu')",
    "import numpy as np\nnp.load(x, allow_pickle=True)",
    "import numpy as np\nnp.load(x, allow_pickle=y)",
    "import subprocess\nsubprocess.run(x, shell=True)",
    "import requests\nrequests.get(x)",
    "import requests\nrequests.get(x, timeout=3, verify=False)",
    "from urllib.request import urlopen\nurlopen(x)",
    "from importlib import import_module\nimport_module(x)",
    "m.from_pretrained(x, trust_remote_code=True)",
]
GOOD = [
    "import torch\ntorch.load(x, weights_only=True)",
    "import numpy as np\nnp.load(x)\nnp.load(x, allow_pickle=False)",
    "import yaml\nyaml.safe_load(x)\nyaml.parse(x)",
    "model.eval()\nmodule.eval().compile(x)",
    "import subprocess\nsubprocess.run([x])",
    "import requests\nrequests.get(x, timeout=3)",
    "import hashlib\nhashlib.sha256(x)",
    "import re\nre.compile(x)",
    "import pickle\npickle.dumps(x)",
    "text = 'pickle.load(x)'",
]


@pytest.mark.parametrize("source", BAD)
def test_each_is_found(source):
    assert list(faults(source))


@pytest.mark.parametrize("source", GOOD)
def test_what_is_safe_passes(source):
    assert list(faults(source)) == []
