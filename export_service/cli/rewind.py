"""`export-service rewind` and `reset`: the application reads its topics again, from a time on, for one job, or all there is."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from export_service.cli.asking import DryRun, Json, Why, Yes, confirm, moment, plan, show
from export_service.failures import ExportError
from export_service.rewind import DEFAULT, TOPICS
from export_service.settings import load

_HELP = f"Comma-separated: {', '.join(TOPICS)}; or all. Default: {', '.join(DEFAULT)}, which download nothing."
Role = Annotated[str | None, typer.Option(help=_HELP, show_default=False)]


def rewind(
    job_id: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="Count this one again; or --to.", show_default=False)
    ] = None,
    to: Annotated[str | None, typer.Option(help="All groups, to that time: 90m, 2h, 3d, or 2025-01-15T10:30:00Z.")] = None,
    role: Role = None,
    why: Why = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Go back to a time, or count one job again from its first event: offsets, tables and changelogs together. Stop the workers first.

    Example: export-service rewind --to 2h --dry-run
    """
    if (job_id is None) == (to is None):
        raise typer.BadParameter("give a JOB or --to")
    if job_id is not None and role not in (None, "tally"):
        raise typer.BadParameter(
            "one job is counted again by the tally alone; see `redrive` for its downloads", param_hint="--role"
        )
    when = moment("--to", to)
    if when is not None and when > datetime.now(UTC):
        raise typer.BadParameter(f"{to} is in the future", param_hint="--to")
    _go(("tally",) if job_id else _roles(role), when, job_id, why, dry_run=dry_run, yes=yes, as_json=as_json)


def reset(role: Role = None, why: Why = None, dry_run: DryRun = False, yes: Yes = False, as_json: Json = False) -> None:
    """Begin again with all that the topics still have: every job whose first events are there is counted anew. Stop the workers first.

    Example: export-service reset --dry-run
    """
    _go(_roles(role), None, None, why, dry_run=dry_run, yes=yes, as_json=as_json)


def _roles(given: str | None) -> tuple[str, ...]:
    roles = DEFAULT if given is None else tuple(TOPICS) if given == "all" else tuple(name.strip() for name in given.split(","))
    if unknown := [name for name in roles if name not in TOPICS]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(TOPICS)}", param_hint="--role")
    return tuple(dict.fromkeys(roles))


def _go(
    roles: tuple[str, ...], to: datetime | None, job_id: str | None, why: str | None, *, dry_run: bool, yes: bool, as_json: bool
) -> None:
    from streams.rewind import away, look
    from streams.rewind import rewind as go_back

    settings = load()
    if not dry_run:
        asyncio.run(away(settings, roles))
    planned = asyncio.run(look(settings, roles, to, job_id))
    plan(planned.as_text(settings.app_id), as_json=as_json)
    if not planned.moving and not planned.entries:
        raise ExportError("nothing to do: no group is past that")
    if not dry_run:
        confirm("Go back?", yes=yes)
        asyncio.run(go_back(settings, planned, why))
    text = "Nothing was changed (--dry-run).\n" if dry_run else "Done. Start the workers: they read again from there.\n"
    show(planned.as_object() | {"done": not dry_run}, lambda: text, as_json=as_json)
