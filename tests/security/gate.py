"""A gate over source files: calls that run what they read, or that a hostile input turns against us (S14).

It follows names through imports (`from pickle import loads as l`), which a search for words does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

FORBIDDEN = {
    **dict.fromkeys(("pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.loads", "_pickle.loads"), "unpickles"),
    **dict.fromkeys(
        ("cloudpickle.load", "cloudpickle.loads", "ray.cloudpickle.load", "ray.cloudpickle.loads"), "unpickles"
    ),
    **dict.fromkeys(("dill.load", "dill.loads", "shelve.open", "marshal.load", "marshal.loads"), "unpickles"),
    **dict.fromkeys(
        ("joblib.load", "pandas.read_pickle", "numpy.lib.format.read_array", "jsonpickle.decode"), "unpickles"
    ),
    **dict.fromkeys(("eval", "exec", "compile", "builtins.eval", "builtins.exec", "__import__"), "runs text"),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"), "starts a shell"),
    **dict.fromkeys(
        ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all"), "builds objects"
    ),
    **dict.fromkeys(("tempfile.mktemp", "os.tempnam"), "names a file that another may make first"),
    **dict.fromkeys(("hashlib.md5", "hashlib.sha1"), "is a broken digest"),
    **dict.fromkeys(("ssl._create_unverified_context",), "trusts everybody"),
    **dict.fromkeys(("tarfile.open", "shutil.unpack_archive"), "writes where an archive says"),
    **dict.fromkeys(("xml.etree.ElementTree.parse", "xml.dom.minidom.parse"), "expands entities"),
    **dict.fromkeys(("ray.tune.Tuner.restore", "ray.train.Checkpoint.to_dict", "torch.hub.load"), "unpickles or runs"),
}
IMPORTED = {"importlib.import_module": "imports what it is told"}
WITH_ARGUMENT = {
    "torch.load": ("weights_only", True, "unpickles without weights_only=True"),
}
NEVER_ARGUMENT = {"allow_pickle": True, "shell": True, "verify": False, "trust_remote_code": True}
NEEDS_TIMEOUT = {f"requests.{verb}" for verb in ("get", "post", "put", "delete", "head", "patch", "request")} | {
    "urllib.request.urlopen",
    "httpx.get",
    "httpx.post",
}


def faults(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, name and what is wrong with it."""
    tree = ast.parse(source)
    names = _imported(tree)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _call(node, _name(node.func, names))
        elif isinstance(node, (ast.Name, ast.Attribute)) and id(node) not in called:
            name = _name(node, names)
            if name in FORBIDDEN and isinstance(node.ctx, ast.Load) and "." in name:
                yield node.lineno, name, FORBIDDEN[name]


def _call(node: ast.Call, name: str) -> Iterator[tuple[int, str, str]]:
    if what := FORBIDDEN.get(name) or IMPORTED.get(name):
        yield node.lineno, name, what
    given = {keyword.arg: getattr(keyword.value, "value", ...) for keyword in node.keywords}
    if name in WITH_ARGUMENT:
        argument, value, what = WITH_ARGUMENT[name]
        if given.get(argument) is not value:
            yield node.lineno, name, what
    for argument, value in NEVER_ARGUMENT.items():
        if argument in given and given[argument] in (value, ...) and not isinstance(given[argument], str):
            yield node.lineno, name, f"{argument}={given[argument]}"
    if name in NEEDS_TIMEOUT and "timeout" not in given:
        yield node.lineno, name, "waits for ever"


def _imported(tree: ast.AST) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(
                {
                    each.asname or each.name.partition(".")[0]: each.name
                    if each.asname
                    else each.name.partition(".")[0]
                    for each in node.names
                }
            )
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({each.asname or each.name: f"{node.module}.{each.name}" for each in node.names})
    return found


def _name(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        above = _name(node.value, names)
        return f"{above}.{node.attr}" if above else ""
    return ""
