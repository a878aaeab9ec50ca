"""`export-service verify`: an independent look at whether the system kept its promises."""

import asyncio
import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from export_service.cli.asking import moment
from export_service.cli.bars import bar
from export_service.failures import ExportError, SettingsError, Unavailable
from export_service.settings import Settings, load
from export_service.verify.evidence import TOPICS, Evidence
from export_service.verify.verdict import Verdict, judge

if TYPE_CHECKING:
    from export_service.verify.gather import Scope
    from export_service.verify.topics import Progress

_SHOWN = 20


def verify(
    job_id: Annotated[str | None, typer.Argument(metavar="JOB", help="One job; or --all.", show_default=False)] = None,
    all_jobs: Annotated[bool, typer.Option("--all", help="Every job that Kafka still knows.")] = False,
    since: Annotated[
        str | None, typer.Option(help="Jobs asked for from then on: 2025-01-15T10:30:00Z, or 2h for so long ago.")
    ] = None,
    settled: Annotated[
        bool, typer.Option("--settled", help="Nothing should be under way: demand that jobs ended and lag is 0.")
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for lag 0 before looking.")] = 0,
    sources: Annotated[bool, typer.Option("--sources", help="Read http(s) sources without query again, and compare.")] = False,
    execution: Annotated[list[str] | None, typer.Option(help="ARN of an execution to look at; may be repeated.")] = None,
    table: Annotated[bool, typer.Option(help="Read the DynamoDB table, task tokens included.")] = True,
    files: Annotated[bool, typer.Option(help="Read the destinations.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check the invariants I1 to I9 from topics, files, DynamoDB and executions. Exit code 1 if one is violated.

    Example: export-service verify --all --settled --wait 60
    """
    # It brings AWS's and Kafka's clients, which no other command and no completion should wait for.
    from export_service.verify.gather import Scope

    if sum((all_jobs, job_id is not None, since is not None)) != 1:
        raise typer.BadParameter("give a JOB, --all, or --since")
    begin = moment("--since", since)
    since_ms = round(begin.timestamp() * 1000) if begin else 0
    scope = Scope(job_id, wait, table, files, sources, tuple(execution or ()), since_ms)
    with bar(quiet=as_json) as progress:
        evidence = asyncio.run(collect(load(), scope, Evidence(settled=settled), progress))
    if job_id is not None and not any(evidence.records.values()) and not evidence.snapshots:
        raise ExportError(f"job {job_id} is on no topic (EXPORT_TOPICS_PREFIX) and not in the table (EXPORT_TABLE_NAME)")
    verdicts = judge(evidence)
    sys.stdout.write(json.dumps(as_object(verdicts, evidence), indent=2) + "\n" if as_json else as_text(verdicts, evidence))
    if any(verdict.violations for verdict in verdicts):
        raise typer.Exit(1)


async def collect(settings: Settings, scope: "Scope", known: Evidence, progress: "Progress") -> Evidence:
    """The evidence, through the service's own connections. Raises ExportError and those below it."""
    from aiokafka.errors import KafkaError
    from botocore.exceptions import BotoCoreError, ClientError

    from connectors.aws import Clients, code_of
    from export_service.verify.gather import Access, gather
    from export_service.verify.topics import StalledReading
    from streams.kafka_client import connection, unreachable

    try:
        found = await gather(settings, Access(connection(settings), Clients(settings.aws).open), scope, known, progress)
    except KafkaError as error:
        raise unreachable(settings, error) from None
    except StalledReading as error:
        raise Unavailable("Kafka", "EXPORT_KAFKA_BOOTSTRAP_SERVERS", f"no records from {error}") from None
    except ClientError as error:
        raise ExportError(f"AWS refuses {error.operation_name}: {code_of(error)}; see --no-table and --no-files") from None
    except OSError as error:
        raise ExportError(f"cannot read the destination: {error}") from None
    except BotoCoreError as error:
        raise Unavailable("AWS", "AWS_ENDPOINT or AWS_REGION", type(error).__name__) from None
    if absent := [topic for topic in TOPICS if not found.bounds(topic)]:
        # An oracle that looks at the wrong place finds nothing wrong there.
        raise SettingsError(f"topics are missing: {', '.join(absent)}; check EXPORT_TOPICS_PREFIX and EXPORT_APP_ID")
    return found


def as_object(verdicts: list[Verdict], evidence: Evidence) -> dict[str, Any]:
    ok = not any(each.violations for each in verdicts)
    return {"ok": ok, "invariants": [each.as_json() for each in verdicts], "cutByRetention": evidence.cut}


def as_text(verdicts: list[Verdict], evidence: Evidence) -> str:
    """A table, then violations and gaps as sentences; long lines are folded on a terminal only, so that they can be searched elsewhere."""
    lines = [f"{each.invariant}  {each.summary:<13} {each.promise}" for each in verdicts]
    for each in verdicts:
        shown = [*(f"{each.invariant} violated: {text}" for text in each.violations[:_SHOWN])]
        if len(each.violations) > _SHOWN:
            shown.append(f"{each.invariant} violated: {len(each.violations) - _SHOWN:,} more; --json has all")
        shown += [f"{each.invariant} not checked: {text}" for text in each.gaps[:_SHOWN]]
        lines += ["", *shown] if shown else []
    if differences := [each for verdict in verdicts for each in verdict.differences][:_SHOWN]:
        lines += ["", f"{'field':<16} {'found':<26} {'fold of results':<26} where"]
    for different in differences:
        lines.append(f"{different.field:<16} {different.found!s:<26} {different.fold!s:<26} job {different.job}, {different.where}")
    if evidence.cut:
        lines += ["", f"Retention has removed the beginning of {', '.join(evidence.cut)}: what depends on it is not checked."]
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        lines = [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="    ") or [""]]
    return "\n".join(lines) + "\n"
