"""The command line: parse, call one function, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys

import typer

from rayml.cli.clusters import cluster, lint, logs, runs, status, stop, submit
from rayml.cli.jobs import diff, plan, run, schema, tune, validate
from rayml.cli.machine import bench, doctor
from rayml.cli.output import print_anything, print_bug, print_error
from rayml.cli.results import predict, report, serve, show, verify

EXIT_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One job file becomes a trained, evaluated and served model on a Ray cluster.",
)

COMMANDS = (
    *(validate, schema, plan, run, tune, diff),
    *(submit, stop, runs, status, logs, cluster, lint),
    *(verify, report, show, serve, predict),
    *(doctor, bench),
)
"""In the order of `rayml --help`."""

for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """The entry point: a RaymlError becomes its sentence and its exit code."""
    from rayml.errors import RaymlError, machine_failure

    print_anything()
    try:
        app()
    except RaymlError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        failure = machine_failure(error)
        if failure is None:
            print_bug()
            sys.exit(1)
        print_error(failure)
        sys.exit(failure.exit_code)
    except Exception:
        print_bug()
        sys.exit(1)
