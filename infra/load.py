"""The parameter file, read and checked: every problem at once, each with its line."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from infra.account import AccountSpec
from rayml.errors import SpecError
from rayml.spec.load import read_tree
from rayml.spec.problems import problems_of, truth_values

ACCOUNT_FILE = Path(__file__).with_name("account.yaml")
"""The example, which the tests synthesize."""


def load_account(path: Path) -> AccountSpec:
    """The account that a file describes. SpecError with every problem in it."""
    tree, problems = read_tree(path)
    problems += truth_values(tree, AccountSpec)
    try:
        account = AccountSpec.model_validate(tree.plain())
    except ValidationError as error:
        told = {problem.path for problem in problems}
        problems += [problem for problem in problems_of(error, AccountSpec, tree) if problem.path not in told]
    if problems:
        raise SpecError(sorted(problems, key=lambda problem: problem.line or 0))
    return account
