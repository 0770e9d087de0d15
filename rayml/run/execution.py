"""Walk a plan to its end, and let the events say how it ended."""

from __future__ import annotations

import contextlib
import platform
import time
import traceback

from rayml import __version__
from rayml.artifacts.store import LocalStore, Store
from rayml.artifacts.switches import refuse_unsafe_switches
from rayml.errors import RaymlError, machine_failure
from rayml.observe.events import EventLog
from rayml.observe.runs import Home, RunFolder
from rayml.run.joined import JoinedSession
from rayml.run.runner import Runner
from rayml.run.session import Session

EXIT_INTERRUPTED = 130


def execute(home: Home, run: RunFolder, store: Store | None = None) -> int:
    """Walk the plan of a run folder and write its last event; the exit code.

    Args:
        store: where artifacts are; in the home where None.
    """
    plan = run.plan()
    log = EventLog(run.events_path)
    session = JoinedSession(run.id) if plan.cluster.attach else Session(plan, run.path)
    started = time.perf_counter()
    log.emit("run_started", run=run.id, job=plan.job, job_file=plan.job_file, rayml=__version__, host=platform.node())
    status, exit_code, error = "done", 0, None
    try:
        refuse_unsafe_switches()
        Runner(plan, store or LocalStore(home.artifacts), run.path, log, session).run()
    except RaymlError as failure:
        status, exit_code, error = "failed", failure.exit_code, failure.to_json()
    except KeyboardInterrupt:
        status, exit_code = "interrupted", EXIT_INTERRUPTED
    except Exception as failure:
        traceback.print_exc()
        refused = machine_failure(failure) if isinstance(failure, OSError) else None
        told = refused or RaymlError(
            f"{type(failure).__name__}: {failure}",
            where="a bug in rayml",
            hint=f"the traceback is in {run.path / 'driver.log'}; please report it",
        )
        status, exit_code, error = "failed", told.exit_code, told.to_json()
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            session.stop()
    seconds = round(time.perf_counter() - started, 3)
    log.emit("run_done", status=status, exit_code=exit_code, error=error, seconds=seconds)
    log.close()
    return exit_code
