"""`export-service console`: what happens now, in a browser."""

import asyncio
import os
import signal
import sys
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

import typer

from export_service import logs
from export_service.failures import ExportError, SettingsError
from export_service.settings import Settings, load


def console(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="EXPORT_CONSOLE_PORT if not given; 0: a free one.")] = None,
    host: Annotated[str | None, typer.Option(help="EXPORT_CONSOLE_HOST if not given.")] = None,
) -> None:
    """Serve the console: flow, jobs, topics, workers and dead letters, live. Ctrl-C ends it.

    It only shows, unless EXPORT_CONSOLE_TOKEN is set and given to it. Whoever reaches its address may look.

    Example: export-service console --port 8780
    """
    given = {name: value for name, value in (("port", port), ("host", host)) if value is not None}
    settings = load(console=given) if given else load()
    logs.configure(settings.log.level, settings.log.format)
    try:
        asyncio.run(_serve(settings))
    except OSError as error:
        where = f"{settings.console.host}:{settings.console.port}"
        # A number below 0 is of a name that leads nowhere. asyncio's own text says the address a second time.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ExportError(f"cannot listen on {where} ({why}); choose another --port or --host") from None


async def _serve(settings: Settings) -> None:
    import structlog

    try:
        from export_service.console.app import serving
    except ModuleNotFoundError as error:
        raise SettingsError(f"the console needs {error.name}: pip install 'export-service[console]'") from None
    async with serving(settings, structlog.get_logger()) as (address, reader):
        sys.stdout.write(f"Console at {address}\n")
        if not ip_address(urlsplit(address).hostname or "").is_loopback:
            sys.stdout.write("Whoever reaches it may look: put a proxy before it that asks who comes (docs/guide.md, Console).\n")
        sys.stdout.flush()
        # A console that reads no more would show for ever what was.
        ended = asyncio.create_task(_signal())
        await asyncio.wait((ended, reader), return_when=asyncio.FIRST_COMPLETED)
        if reader.done():
            reader.result()


async def _signal() -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
