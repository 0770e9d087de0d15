"""What a job on a cluster starts: `python -m rayml.run.cluster_entry PLAN --storage URI --run NAME`.

Create or resume: the same command again goes on where the run is, and does nothing where it is done. What happens is
printed as plain lines for Ray's job log; events, logs and the report go to the storage, which outlives the cluster.

Nothing is imported above `main`: Python imports the main module again in each process that multiprocessing makes.
"""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    """Walk a plan on the cluster that this process is on; the exit code of the run."""
    import argparse

    from rayml.errors import RaymlError
    from rayml.process import interrupt_on_signals
    from rayml.redact.streams import guard_output

    guard_output()
    from rayml.run.on_cluster import run_on_cluster

    parser = argparse.ArgumentParser(prog="python -m rayml.run.cluster_entry")
    parser.add_argument("plan")
    parser.add_argument("--storage", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--scheduled", action="store_true", help="--run names a schedule, and this is a start of it")
    given = parser.parse_args(arguments)
    interrupt_on_signals()
    try:
        if not given.scheduled:
            return run_on_cluster(given.plan, given.storage, given.run)
        from rayml.run.scheduled import plan_start

        plan, run = plan_start(given.plan, given.storage, given.run)
        sys.stdout.write(f"this start of the schedule {given.run} is the run {run}\n")
        return run_on_cluster(plan, given.storage, run)
    except RaymlError as error:
        sys.stdout.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    from rayml.process import end_at_once

    end_at_once(main(sys.argv[1:]))
