"""`export-service topics`: the manifest of topics, declared and checked."""

import asyncio
import json
import sys
from datetime import timedelta

import typer

from export_service.cli import lag
from export_service.cli.asking import Json
from export_service.messages import iso_millis
from export_service.settings import load

app = typer.Typer(no_args_is_help=True, help="The topics of the pipeline.")
app.command()(lag.lag)


@app.command()
def declare(as_json: Json = False) -> None:
    """Create the topics that are missing, and check the partitions of those that exist.

    Example: EXPORT_TOPICS_PARTITIONS=16 export-service topics declare
    """
    from streams.topics import declare as declare_topics
    from streams.topics import topics

    settings = load()
    created = asyncio.run(declare_topics(settings, topics(settings).manifest()))
    if as_json:
        sys.stdout.write(json.dumps({"created": created}) + "\n")
    else:
        sys.stdout.write("".join(f"created {name}\n" for name in created) or "All topics exist.\n")


@app.command(name="retention")
def show_retention(as_json: Json = False) -> None:
    """Show what each topic still has, and until when: what can be explained, exported and replayed.

    Example: export-service topics retention
    """
    from streams.retention import retention

    found = asyncio.run(retention(load()))
    if as_json:
        sys.stdout.write(json.dumps([each.as_json() for each in found], indent=2) + "\n")
        return
    sys.stdout.write(f"{'topic':<20} {'records':>11} {'oldest (UTC)':<17} {'goes from':<17} kept\n")
    for each in found:
        kept = "compacted" if each.policy == "compact" else _span(each.keeps) if each.keeps else "for ever"
        oldest, until = (f"{when:%Y-%m-%d %H:%M}" if when else "-" for when in (each.oldest, each.until))
        sys.stdout.write(f"{each.topic:<20} {each.records:>11,} {oldest:<17} {until:<17} {kept}\n")
    results = next(each for each in found if each.topic == "results")
    if results.oldest is None:
        sys.stdout.write("No job can be replayed: results is empty.\n")
    else:
        whole = f"jobs that began after {iso_millis(results.whole_since)}" if results.whole_since else "all jobs"
        sys.stdout.write(f"Can be replayed: {whole}. A segment goes as a whole, so records may stay longer.\n")


@app.command(name="list")
def list_topics(as_json: Json = False) -> None:
    """Show the manifest: what each topic carries, its key, partitions and retention.

    Example: export-service topics list
    """
    from streams.topics import topics

    manifest = topics(load()).manifest()
    if as_json:
        rows = [
            {"name": s.name, "key": s.key, "carries": s.carries, "partitions": s.partitions, "config": dict(s.config)}
            for s in manifest
        ]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    for spec in manifest:
        kept = "compacted" if spec.compacted else "1 hour" if spec.fleeting else f"{spec.retention_days} days"
        sys.stdout.write(f"{spec.name:<34} {spec.partitions:>3} partitions, {kept}\n    {spec.carries}, by {spec.key}\n")


def _span(time: timedelta) -> str:
    days = time / timedelta(days=1)
    return f"{days:g} days" if days >= 1 else f"{days * 24:g} h"
