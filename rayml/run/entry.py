"""What a job starts where it runs: walk a plan to its end. `python -m rayml.run.entry HOME RUN_FOLDER`.

Nothing is imported above `main`: Python imports the main module again in each process that multiprocessing makes.
"""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    """Run as a process of its own, which ends when its parent does."""
    from pathlib import Path

    from rayml.observe.runs import Home, RunFolder
    from rayml.process import die_with_parent, interrupt_on_signals
    from rayml.redact.streams import guard_output

    guard_output()
    from rayml.run.execution import execute

    home, folder = (Path(argument).absolute() for argument in arguments)
    die_with_parent()
    interrupt_on_signals()
    run = RunFolder(folder)
    with run.held() as alone:
        assert alone, f"another process works in {folder}"
        return execute(Home(home), run)


if __name__ == "__main__":
    from rayml.process import end_at_once

    end_at_once(main(sys.argv[1:]))
