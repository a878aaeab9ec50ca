"""`export-service dead-letters`: look at what could not be processed, send it again, or put it away."""

import asyncio
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from os import environ
from pathlib import Path
from typing import Annotated, Literal

import typer

from export_service.cli.asking import DryRun, Json, Why, Yes, confirm, moment, plan, show
from export_service.failures import ExportError, SettingsError
from export_service.letters import Edit, Filter, Kept, Sending, as_object, refusal, sending, setting
from export_service.messages import iso_millis
from export_service.redaction import body_without_secrets, without_secrets
from export_service.requests import Policy
from export_service.settings import Settings, load

app = typer.Typer(no_args_is_help=True, help="Records and messages that could not be processed.")

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="PARTITION:OFFSET, as `list` shows it.", show_default=False)
]
Topic = Annotated[str | None, typer.Option(help="That it came from: requests, tasks, results, snapshots, completions; or sqs.")]
Job = Annotated[str | None, typer.Option(help="Of this job.")]
Reason = Annotated[str | None, typer.Option(help="Whose reason has this text in it, such as an error's class.")]
Since = Annotated[str | None, typer.Option(help="Since then: 90m, 2h, 3d, or 2025-01-15T10:30:00Z.")]
All = Annotated[bool, typer.Option("--all", help="All that are open.")]
State = Literal["open", "redriving", "redriven", "discarded", "all"]


@app.command(name="list")
def list_letters(
    topic: Topic = None,
    job: Job = None,
    reason: Reason = None,
    since: Since = None,
    state: Annotated[State, typer.Option(help="What was done to it.")] = "open",
    as_json: Json = False,
) -> None:
    """List dead letters, oldest first.

    Example: export-service dead-letters list --topic results --since 2h
    """
    wanted = Filter((), topic, job, reason, moment("--since", since), None if state == "all" else state)
    found = _find(load(), wanted)
    show([as_object(kept, body=False) for kept in found], lambda: table(found, state), as_json=as_json)


@app.command(name="show")
def show_letters(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="PARTITION:OFFSET.")], as_json: Json = False
) -> None:
    """Show dead letters whole, but for their secrets, with what was done to them.

    Example: export-service dead-letters show 2:17
    """
    objects = [as_object(kept, body=True) for kept in named(load(), ids)]

    def text() -> str:
        lines = [
            f"{name:<18} {value if isinstance(value, str) else json.dumps(value)}"
            for each in objects
            for name, value in each.items()
        ]
        return "\n".join(lines) + "\n"

    show(objects, text, as_json=as_json)


@app.command()
def redrive(
    ids: Ids = None,
    topic: Topic = None,
    job: Job = None,
    reason: Reason = None,
    since: Since = None,
    every: All = False,
    edit: Annotated[bool, typer.Option("--edit", help="Open one in $EDITOR first.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a field first, such as job.userId=u2. May be repeated."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what was sent or discarded before.")] = False,
    skip: Annotated[bool, typer.Option("--skip", help="Leave out what cannot be sent, rather than send nothing.")] = False,
    sqs: Annotated[bool, typer.Option("--sqs", help="Move SQS's own dead-letter queue back instead.")] = False,
    source: Annotated[
        str | None,
        typer.Option("--from", help="With --sqs: URL of the dead-letter queue, if the queue's redrive policy does not name it."),
    ] = None,
    why: Why = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Send dead letters back to where they came from, once: to their topic with key, value and headers as they were, or to the queue.

    Example: export-service dead-letters redrive 2:17 --set job.userId=user-2
    """
    settings = load()
    filtered = topic or job or reason or since or every
    if sqs:
        if ids or filtered or edit or changes:
            raise typer.BadParameter("--sqs moves all that is in SQS's queue; it goes with --from, --why, --dry-run and --yes only")
        return _move(settings, source, why, dry_run=dry_run, yes=yes, as_json=as_json)
    if edit and (changes or len(ids or ()) != 1):
        raise typer.BadParameter("--edit opens one dead letter: give one ID, and no --set")
    found = _chosen(
        settings, ids, Filter((), topic, job, reason, moment("--since", since), None if again else "open"), bool(filtered)
    )
    planned, refused = sendings(settings, found, again=again, edit=_in_editor if edit else setting(changes) if changes else None)
    plan("".join(map(planned_text, planned)) + "".join(f"  not    {text}\n" for text in refused), as_json=as_json)
    if refused and not skip:
        raise ExportError(f"nothing was sent: {refused[0]}")
    if not planned:
        raise ExportError("no dead letter to send; see `dead-letters list --state all`")
    sent = []
    if not dry_run:
        from streams.letters import send

        confirm(f"Send {len(planned)} of them?", yes=yes)
        sent = asyncio.run(send(settings, planned, why))
    result = {
        "planned": [{"id": each.kept.id, "to": each.topic or "sqs", "notes": each.notes} for each in planned],
        "refused": refused,
        "sent": [{"id": each.subject, **each.details} for each in sent],
    }
    return show(result, lambda: f"{len(sent)} sent.\n" if sent else "Nothing was sent (--dry-run).\n", as_json=as_json)


@app.command()
def discard(
    ids: Ids = None,
    topic: Topic = None,
    job: Job = None,
    reason: Reason = None,
    since: Since = None,
    every: All = False,
    why: Why = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Mark dead letters as dealt with. Nothing is deleted: `list --state discarded` has them as long as Kafka does.

    Example: export-service dead-letters discard --topic sqs --since 1d --why "a test of ours"
    """
    settings = load()
    wanted = Filter((), topic, job, reason, moment("--since", since), "open")
    found = _chosen(settings, ids, wanted, bool(topic or job or reason or since or every))
    if ended := [kept for kept in found if kept.state not in ("open", "redriving")]:
        raise ExportError(f"nothing was changed: dead letter {ended[0].id} is {ended[0].state} already")
    if not found:
        raise ExportError("no dead letter to discard; see `dead-letters list --state all`")
    plan(table(found, "open"), as_json=as_json)
    actions = []
    if not dry_run:
        from streams.letters import discard as put_away

        confirm(f"Discard {len(found)} of them?", yes=yes)
        actions = asyncio.run(put_away(settings, found, why))
    text = f"{len(actions)} discarded.\n" if actions else "Nothing was changed (--dry-run).\n"
    show({"planned": [kept.id for kept in found], "discarded": [each.subject for each in actions]}, lambda: text, as_json=as_json)


def _chosen(settings: Settings, ids: Sequence[str] | None, wanted: Filter, filtered: bool) -> list[Kept]:
    if bool(ids) == filtered:
        raise typer.BadParameter("give IDs, or --topic, --job, --reason, --since or --all")
    return named(settings, ids) if ids else _find(settings, wanted)


def _find(settings: Settings, wanted: Filter) -> list[Kept]:
    from streams.letters import load as load_letters

    return [kept for kept in asyncio.run(load_letters(settings, wanted.since)) if wanted.takes(kept)]


def named(settings: Settings, ids: Sequence[str]) -> list[Kept]:
    """Raises ExportError for one that is not there."""
    found = {kept.id: kept for kept in _find(settings, Filter(tuple(ids)))}
    if missing := [each for each in ids if each not in found]:
        raise ExportError(
            f"dead letter {missing[0]}: is not on {settings.topics.prefix}dead-letters; see `dead-letters list --state all`"
        )
    return [found[each] for each in dict.fromkeys(ids)]


def sendings(settings: Settings, found: Sequence[Kept], *, again: bool, edit: Edit | None) -> tuple[list[Sending], list[str]]:
    """What would be sent, and why others may not be. Raises SettingsError, Unavailable."""
    from streams.letters import originals

    if settings.queue.url is None and any(kept.place is None for kept in found):
        raise SettingsError("EXPORT_QUEUE_URL is not set: where should messages go?")
    planned, refused = [], [text for kept in found if (text := refusal(kept, again=again))]
    free = [kept for kept in found if refusal(kept, again=again) is None]
    kept_yet = asyncio.run(originals(settings, free))
    for kept in free:
        try:
            planned.append(sending(kept, kept_yet.get(kept.id), edit, Policy.of(settings)))
        except ExportError as error:
            refused.append(without_secrets(str(error)))
    return planned, refused


def _in_editor(value: bytes) -> bytes:
    """Without its secrets: files of an editor stay behind."""
    text = body_without_secrets(value.decode(errors="replace"))
    try:
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        suffix = ".json"
    except ValueError:
        suffix = ".txt"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"dead-letter{suffix}")
        path.write_text(text)
        editor = shlex.split(environ.get("VISUAL") or environ.get("EDITOR") or "vi")
        try:
            code = subprocess.run([*editor, str(path)], check=False).returncode
        except OSError as error:
            raise ExportError(f"--edit: cannot run {editor[0]} ({error.strerror}); set EDITOR, or use --set") from None
        edited = path.read_text()
    if code != 0 or edited == text:
        raise ExportError(f"--edit: {editor[0]} ended with code {code}" if code else "--edit: nothing was edited")
    try:
        return json.dumps(json.loads(edited), ensure_ascii=False).encode(errors="backslashreplace")
    except ValueError:
        return edited.strip().encode()


def _move(settings: Settings, source: str | None, why: str | None, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    from connectors.aws import Clients
    from connectors.sqs_moves import Queues, look
    from streams.letters import move_queue

    url = settings.queue.url
    if url is None:
        raise SettingsError("EXPORT_QUEUE_URL is not set: where should messages go?")

    async def preview() -> Queues:
        async with Clients(settings.aws).open("sqs") as client:
            return await look(client, url, source)

    queues = asyncio.run(preview())
    text = f"  about {queues.waiting} messages, {queues.hidden} more in flight\n"
    text += f"  from   {queues.source_arn}\n  to     {queues.target_arn}\n"
    plan(text, as_json=as_json)
    if not queues.waiting:
        raise ExportError("the dead-letter queue has nothing to move")
    moved = None
    if not dry_run:
        confirm(f"Move about {queues.waiting} messages?", yes=yes)
        moved = asyncio.run(move_queue(settings, queues, lambda done: _progress(done, queues.waiting), why))
    result = {"waiting": queues.waiting, "moved": moved.messages if moved else 0, "bySqs": bool(moved and moved.by_sqs)}
    show(result, lambda: f"{moved.messages} moved.\n" if moved else "Nothing was moved (--dry-run).\n", as_json=as_json)


def _progress(moved: int, waiting: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{moved} of about {waiting}{'' if moved < waiting else chr(10)}")


def planned_text(each: Sending) -> str:
    notes = f" ({'; '.join(each.notes)})" if each.notes else ""
    key = without_secrets((each.key or b"").decode(errors="replace"))
    return f"  {each.kept.id:<6} {each.kept.letter.source} -> {each.topic or 'sqs'}, key {key}{notes}\n"


def table(found: Sequence[Kept], state: str) -> str:
    if not found:
        return f"No dead letter is {state}.\n" if state != "all" else "There is no dead letter.\n"
    rows = [
        (each.id, iso_millis(each.at), each.state, each.letter.source, each.job_id or "-", each.letter.reason) for each in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]) for row in rows)
    return without_secrets("\n".join(lines)) + "\n"
