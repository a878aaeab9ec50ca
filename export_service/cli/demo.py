"""`export-service demo`: the whole loop on this machine, for real, and a check of what came out by somebody who did not do it."""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from export_service.devstack.processes import DevstackError


def demo(
    manifest: Annotated[Path | None, typer.Option(help="Export the files of this manifest (.jsonl or .csv).")] = None,
    url: Annotated[list[str] | None, typer.Option(help="Export this URL; may be repeated.")] = None,
    dest: Annotated[str | None, typer.Option(help="Folder, or s3:// prefix in the emulator. Default: in the state folder.")] = None,
    fail: Annotated[int, typer.Option(min=0, help="Add this many files that do not exist.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, max=100, help="Executions to start.")] = 1,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave Kafka and AWS running, as `dev up` does.")] = False,
    state_dir: Annotated[Path, typer.Option(help="Folder for state, logs and files.")] = Path(".export-service"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> None:
    """Run the whole pipeline here: a real Kafka, an AWS emulator, a state machine that waits, real files.

    Without --manifest or --url it exports this Python's standard library from a local HTTP server.

    Example: ./dev demo --fail 3
    """
    from export_service.devstack.demo import Demo, Plan
    from export_service.devstack.progress import Progress

    def on_sigterm(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_sigterm)
    started = time.monotonic()
    show = Progress(quiet=as_json)
    plan = Plan(state_dir.absolute(), manifest, tuple(url or ()), dest, fail, jobs, workers, keep)
    running = Demo(plan, show)
    try:
        results = running.run()
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped; nothing is left running.\n")
        raise typer.Exit(130) from None
    finally:
        show.close()
        running.stop()
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        sys.stdout.write(json.dumps({"seconds": seconds, "jobs": results}, indent=2) + "\n")
    else:
        for result in results:
            sys.stdout.write(_described(result))
        kept = f"Kafka and AWS are still up. Stop them: ./dev dev down --state-dir {state_dir}\n" if keep else ""
        sys.stdout.write(f"All in {seconds} s. Logs: {state_dir}/*.log\n{kept}")
    if any(result["identical"] != result["compared"] for result in results):
        raise DevstackError("some files differ from their source; this must not happen: please report it with the logs")


def _described(result: dict[str, Any]) -> str:
    rate = result["completedTasks"] / max(result["durationMs"], 1) * 1000
    lines = [
        f"Execution  {result['name']}: {result['status']} in {result['seconds']} s, by {result['state']}",
        f"Job        {result['completedTasks']:,} of {result['totalTasks']:,} files, {result['bytes'] / 1e6:,.1f} MB, {rate:,.0f} files/s",
        "Output     " + json.dumps(result["output"], indent=2).replace("\n", "\n           "),
        f"Files      {result['destination']}",
        f"Report     {result['report']}",
        *(f"           {line}" for line in result["reportLines"]),
    ]
    if result["compared"]:
        lines.append(f"Check      {result['identical']:,} of {result['compared']:,} files are identical to their source")
    return "\n".join(lines) + "\n\n"
