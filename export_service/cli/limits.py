"""`export-service limits`: what all download workers together may do, changed while they run."""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from export_service.messages import DownloadLimits
from export_service.rates import parse_host_limit, parse_rate, shown
from export_service.settings import Settings, load

app = typer.Typer(no_args_is_help=True, help="Limits of all download workers together, changed while they run.")
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
T = TypeVar("T")


@app.command()
def show(as_json: Json = False) -> None:
    """Show the limits that hold now.

    Example: export-service limits show
    """
    _print(asyncio.run(_current(load())), as_json=as_json)


@app.command(name="set")
def set_limits(
    bandwidth: Annotated[
        str | None, typer.Option(help="Bytes a second of all download workers together, such as 50MB; off: no limit.")
    ] = None,
    host_concurrency: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST=NUMBER: files at a time of a host (or host:port), of all workers together; HOST=off. May be repeated."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Change limits; those that are not named stay. Running workers follow within a second.

    Example: export-service limits set --bandwidth 50MB --host-concurrency example.com=4
    """
    if bandwidth is None and not host_concurrency:
        raise typer.BadParameter("nothing to change: give --bandwidth or --host-concurrency")
    rate = _checked(parse_rate, bandwidth, "--bandwidth") if bandwidth is not None else None
    hosts = dict(_checked(parse_host_limit, each, "--host-concurrency") for each in host_concurrency or ())
    settings = load()

    async def change() -> DownloadLimits:
        limits = await _current(settings)
        kept = {host: most for host, most in limits.host_concurrency.items() if host not in hosts}
        kept |= {host: most for host, most in hosts.items() if most is not None}
        changed = DownloadLimits(bandwidth=limits.bandwidth if bandwidth is None else rate, host_concurrency=kept)
        await _publish(settings, changed)
        return changed

    _print(asyncio.run(change()), as_json=as_json)


def _checked(parse: Callable[[str], T], text: str, option: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _print(limits: DownloadLimits, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(limits.model_dump(mode="json", include={"bandwidth", "host_concurrency"})) + "\n")
        return
    sys.stdout.write(f"bandwidth         {shown(limits.bandwidth)}\n")
    for host, most in sorted(limits.host_concurrency.items()):
        sys.stdout.write(f"host concurrency  {host}: {most}\n")


async def _current(settings: Settings) -> DownloadLimits:
    """Raises Unavailable, SettingsError."""
    import structlog

    from streams.followers import limits
    from streams.topics import declare, topics

    spec = topics(settings).limits
    if await declare(settings, [spec], create=settings.topics.declare):
        return DownloadLimits()
    told = [DownloadLimits()]
    await limits(settings, spec.name, told.append, structlog.get_logger()).read()
    return told[-1]


async def _publish(settings: Settings, limits: DownloadLimits) -> None:
    from streams.publisher import KafkaPublisher
    from streams.topics import topics

    async with KafkaPublisher(settings) as publisher:
        await (await publisher.send(topics(settings).limits.name, b"download", limits.to_bytes()))
