"""`export-service worker`: run the pipeline, or some of its roles."""

import asyncio
import logging
import os
from typing import Annotated

import typer

from export_service import logs
from export_service.core_dumps import forbid_core_dumps
from export_service.failures import SettingsError
from export_service.garbage import collect_seldom
from export_service.settings import ROLES, load


def worker(
    role: Annotated[str, typer.Option(help=f"Comma-separated roles: {', '.join(ROLES)}. Default: all of them.")] = "all",
) -> None:
    """Run the pipeline: all roles in one process, or only some.

    Settings come from the environment; `export-service config` lists them. SIGTERM drains.

    Example: export-service worker --role download
    """
    import uvloop

    from connectors.fetch_processes import forked
    from streams.worker import run_until_signalled

    roles = ROLES if role == "all" else tuple(name.strip() for name in role.split(","))
    if unknown := [name for name in roles if name not in ROLES]:
        raise SettingsError(f"--role {','.join(unknown)}: known roles are {', '.join(ROLES)}")
    settings = load()
    if not settings.worker.core_dumps:
        forbid_core_dumps()
    logs.configure(settings.log.level, settings.log.format)
    collect_seldom()
    # The processes before the loop: they begin as copies of this one.
    with (
        forked(settings, settings.download.processes if "download" in roles else 0) as fetchers,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        if code := runner.run(run_until_signalled(settings, roles, fetchers)):
            # A failed worker replays after its restart. Faust's threads are still at work on what we no longer trust.
            logging.shutdown()
            os._exit(code)
