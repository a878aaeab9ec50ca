"""`export-service`: the commands, each in a module of its own.

Exit codes: 0 done, 1 failed, 2 wrong usage, 78 wrong settings, 130 Ctrl-C.
"""

import logging
import sys
import traceback
from typing import Annotated

import typer

from export_service import __version__
from export_service._app_path import make_importable
from export_service.failures import ExportError, SettingsError
from export_service.redaction import without_secrets

EXIT_SETTINGS = SettingsError.exit_code
"""EX_CONFIG of sysexits.h: restarting does not help, so that a supervisor can tell."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Exports files for AWS Step Functions, as a stream-processing pipeline over Apache Kafka.",
)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version


def registered() -> typer.Typer:
    """The app with its commands, whose modules are imported only now."""
    if app.registered_commands:
        return app
    from export_service.cli import (
        config,
        console,
        dead_letters,
        demo,
        dev,
        doctor,
        explain,
        export,
        job_list,
        jobs,
        limits,
        redrive,
        replay,
        rewind,
        sweep,
        topics,
        verify,
        watch,
        worker,
        workers,
    )

    app.command("demo")(demo.demo)
    app.add_typer(dev.app, name="dev")
    app.command("console")(console.console)
    app.command("worker")(worker.worker)
    app.command("workers")(workers.workers)
    app.command("submit")(jobs.submit)
    app.command("jobs")(job_list.jobs)
    app.command("status")(jobs.status)
    app.command("watch")(watch.watch)
    app.command("cancel")(jobs.cancel)
    app.command("redrive")(redrive.redrive)
    app.command("rewind")(rewind.rewind)
    app.command("reset")(rewind.reset)
    app.command("explain")(explain.explain_job)
    app.command("export")(export.export)
    app.command("replay")(replay.replay)
    app.command("verify")(verify.verify)
    app.command("sweep")(sweep.sweep)
    app.add_typer(dead_letters.app, name="dead-letters")
    app.add_typer(limits.app, name="limits")
    app.add_typer(topics.app, name="topics")
    app.command("config")(config.config)
    app.command("doctor")(doctor.doctor)
    return app


def run() -> None:
    """The console script. A failure that we know is one sentence, not a traceback."""
    make_importable()
    # What its clients say of a broker that is away, our own sentence says. A worker has handlers for it.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    try:
        registered()(prog_name="export-service")
    except SettingsError as error:
        sys.stderr.write(f"export-service: wrong settings\n{error}\n")
        raise SystemExit(EXIT_SETTINGS) from None
    except ExportError as error:
        sys.stderr.write(f"export-service: {error}\n")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception:
        # A defect. Python would show the same, and with it whatever the exception quotes.
        sys.stderr.write(without_secrets(traceback.format_exc()))
        raise SystemExit(1) from None
