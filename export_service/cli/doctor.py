"""`export-service doctor`: are settings, topics, permissions, clocks and versions as the workers need them; and what to do if not."""

import asyncio
import json
import sys
from collections import Counter
from typing import Annotated

import typer

from export_service.failures import SettingsError
from export_service.findings import Finding, Level
from export_service.settings import ROLES, Settings, load

_MARK = {Level.OK: "ok     ", Level.UNKNOWN: "unknown", Level.WARNING: "warning", Level.FAILED: "FAILED "}
SUBJECTS = (*ROLES, "sweep")


def doctor(
    role: Annotated[
        str, typer.Option(help=f"Whose permissions to try, comma separated: {', '.join(SUBJECTS)}. Default: those of a worker.")
    ] = ",".join(ROLES),
    source: Annotated[str | None, typer.Option(help="An s3:// object that exists and must be readable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check everything that a worker needs of its surroundings, with the settings and credentials that are here. Changes nothing.

    Each AWS action of each role is really tried, on what does not exist. A line for each finding, with the way out; exit code 1 if one has
    failed. Run it with a role's own credentials to see what that role may.

    Example: export-service doctor --role callback
    """
    roles = [name.strip() for name in role.split(",")]
    if unknown := [name for name in roles if name not in SUBJECTS]:
        raise SettingsError(f"--role {','.join(unknown)}: known are {', '.join(SUBJECTS)}")
    if source is not None and not source.startswith("s3://"):
        raise SettingsError(f"--source {source}: is not an s3:// URL, e.g. s3://bucket/key")
    found = asyncio.run(_find(load(), roles, source, show=not as_json))
    failed = any(finding.level is Level.FAILED for finding in found)
    if as_json:
        rows = [{"level": f.level.value, "about": f.about, "text": f.text, "wayOut": f.way_out or None} for f in found]
        sys.stdout.write(json.dumps({"ok": not failed, "findings": rows}, indent=2) + "\n")
    else:
        numbers = Counter(finding.level for finding in found)
        sys.stdout.write(", ".join(f"{numbers[level]} {level.value}" for level in Level if numbers[level]) + "\n")
    if failed:
        raise typer.Exit(1)


async def _find(settings: Settings, roles: list[str], source: str | None, *, show: bool) -> list[Finding]:
    from connectors.permissions import try_all
    from streams.doctor import look_at_topics, versions

    found: list[Finding] = []

    def take(finding: Finding) -> None:
        found.append(finding)
        if show:
            way_out = f"\n        -> {finding.way_out}" if finding.way_out else ""
            sys.stdout.write(f"{_MARK[finding.level]} {finding.about}: {finding.text}{way_out}\n")

    take(Finding(Level.OK, "settings", "all are well formed; export-service config shows them"))
    for finding in versions():
        take(finding)
    async for finding in look_at_topics(settings):
        take(finding)
    async for finding in try_all(settings, roles, source):
        take(finding)
    return found
