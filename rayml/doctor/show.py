"""What a person sees of the findings: a line each, with what to type below it; and the same for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayml.doctor.finding import Finding
from rayml.spec.words import count

Findings = dict[str, list[Finding]]
"""By section."""
STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}
NAME_WIDTH = 16


def to_json(findings: Findings) -> dict[str, Any]:
    """One document: the worst status, and every finding with its section."""
    return {
        "status": worst(findings),
        "findings": [{"section": name, **each.to_json()} for name, section in findings.items() for each in section],
    }


def worst(findings: Findings) -> str:
    """ok, warning or wrong, over all."""
    found = {each.status for section in findings.values() for each in section}
    return next(status for status in ("wrong", "warning", "ok") if status in found or status == "ok")


def print_findings(console: Console, findings: Findings) -> None:
    """Section by section; columns on a terminal, whole lines elsewhere."""
    for name, section in findings.items():
        console.print(Text(name, style="bold"))
        for finding in section:
            (print_row if console.is_terminal else print_line)(console, finding)
    console.print(Text(summary(findings), style=STYLES[worst(findings)]))


def print_row(console: Console, finding: Finding) -> None:
    """In columns, folded to the terminal's width."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(width=len("warning"))
    table.add_column(width=NAME_WIDTH)
    table.add_column(ratio=1, overflow="fold")
    table.add_row("", Text(finding.status, style=STYLES[finding.status]), finding.name, Text(finding.found))
    if finding.hint:
        table.add_row("", "", "", Text(finding.hint, style="cyan"))
    console.print(table)


def print_line(console: Console, finding: Finding) -> None:
    """Unfolded, for logs and pipes."""
    lines = [f"  {finding.status:<7} {finding.name:<{NAME_WIDTH}} {finding.found}"]
    lines += [f"{'':{NAME_WIDTH + 11}}{finding.hint}"] if finding.hint else []
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def summary(findings: Findings) -> str:
    """How many of each."""
    found = [each.status for section in findings.values() for each in section]
    return f"{found.count('wrong')} wrong, {count(found.count('warning'), 'warning')}, {found.count('ok')} ok"
