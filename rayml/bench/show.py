"""A bench's document for people: a table for the terminal, and the same as Markdown for docs/LOG.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ("row", "ours", "alternative", "ratio (95 %)", "CPU", "same work", "limit", "goal", "met")
UNKNOWN = "-"
WIDTH = 100
"""What the table needs; a narrower terminal wraps its lines, and loses none of it."""
MET = {True: "yes", False: "no", None: "open"}


def print_bench(console: Console, document: dict[str, Any]) -> None:
    """The table, between what was measured on and what the numbers mean."""
    from rich.table import Table
    from rich.text import Text

    console.width = max(console.width, WIDTH)
    console.print(Text(f"bench {document['bench']}", style="bold"), Text(f"$ {document['command']}", style="dim"))
    console.print(Text(machine_line(document), style="dim"))
    console.print()
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "row" else "right", no_wrap=column != "row")
    for row in document["rows"]:
        *cells, met = cells_of(row)
        color = {"yes": "green", "no": "red"}.get(met, "yellow")
        table.add_row(*cells[:5], Text(cells[5], style="red" if cells[5] == "no" else ""), *cells[6:], Text(met, color))
    console.print(table)
    console.print()
    for line in notes(document):
        console.print(Text(line, style="dim"), soft_wrap=False)


def markdown(document: dict[str, Any]) -> str:
    """The same for docs/LOG.md."""
    lines = [
        f"`{document['command']}`  ",
        machine_line(document),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" + "|---:" * (len(COLUMNS) - 1) + "|",
        *("| " + " | ".join(cells_of(row)) + " |" for row in document["rows"]),
        "",
        *(f"- {line}" for line in notes(document)),
    ]
    return "\n".join(lines) + "\n"


def machine_line(document: dict[str, Any]) -> str:
    """What the figures belong to, in one line."""
    machine = document["machine"]
    return (
        f"{machine['cpus']} CPUs ({machine['processor']}), {machine['memory_gib']:g} GiB, {machine['system']}; "
        f"Python {machine['python']}, rayml {machine['rayml']}, ray {machine['ray']}, torch {machine['torch']}"
    )


def cells_of(row: dict[str, Any]) -> list[str]:
    """A row's cells, as text."""
    unit = row["unit"]
    ratio = UNKNOWN if row["ratio"] is None else f"{row['ratio']:.2f}x"
    if row["interval"] is not None:
        low, high = row["interval"]
        ratio += f" [{low:.2f}, {high:.2f}]"
    goal = UNKNOWN
    if row["goal"] is not None:
        goal = goal_in_words(row)
    return [
        row["name"],
        amount(row["ours"], unit),
        amount(row["alternative"], unit),
        ratio,
        UNKNOWN if row["cpu_ratio"] is None else f"{row['cpu_ratio']:.2f}x",
        {True: "yes", False: "no", None: UNKNOWN}[row["same_work"]],
        amount(row["limit"], unit),
        goal,
        UNKNOWN if row["goal"] is None else MET[row["met"]],
    ]


def goal_in_words(row: dict[str, Any]) -> str:
    """What the goal is held against, and the bound as it was written."""
    if row["goal_of"] == "ratio":
        return f">= {row['goal']:.2f}x"
    unit = "/s" if row["unit"].endswith("/s") else f" {row['unit']}"
    return f"{'<=' if row['goal_of'] == 'ours' else '>='} {row['goal']:g}{unit}"


def amount(value: float | None, unit: str) -> str:
    """A measured value: seconds with their unit, rates by thousands, small ones with a tenth."""
    if value is None:
        return UNKNOWN
    if unit == "s":
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{value:,.{0 if value >= 100 else 1}f}/s" if unit.endswith("/s") else f"{value:,.4g} {unit}"


def notes(document: dict[str, Any]) -> list[str]:
    """What stands against what, how often, and what else the machine did meanwhile."""
    lines = []
    for row in document["rows"]:
        unit = f"{row['unit']}, " if row["unit"] != "s" else ""
        count = (
            f"{row['pairs']} pairs A B B A"
            if row["alternative"] is not None
            else f"{row['pairs']} lap{'s' if row['pairs'] > 1 else ''}"
        )
        parts = [f"{row['name']}: {unit}{count}"]
        if row["alternative"] is not None:
            parts.append(f"against {row['alternative_is']}")
        if row["limit"] is not None:
            parts.append(f"limit: {row['limit_is']}; ours is {row['ours'] / row['limit']:.0%} of it")
        if row["ours_cpu_s"] is not None:
            both = "" if row["alternative_cpu_s"] is None else f" against {row['alternative_cpu_s']:.2f} s"
            parts.append(f"CPU {row['ours_cpu_s']:.2f} s{both} per lap")
        others = "" if row["others"] is None else f", other processes {row['others']:.0%}"
        parts.append(f"steal {row['steal']:.1%}{others}")
        if row["difference"] is not None:
            parts.append(f"NOT THE SAME WORK: {row['difference']}")
        lines.append("; ".join(parts))
    return lines
