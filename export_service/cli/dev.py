"""`export-service dev`: the embedded stack, left running for as long as you like."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from export_service.devstack import stack as stacks

app = typer.Typer(no_args_is_help=True, help="The embedded stack: a real Kafka, an AWS emulator and the console on this machine.")

StateDir = Annotated[Path, typer.Option("--state-dir", help="Folder for state and logs.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
DEFAULT_FOLDER = Path(".export-service")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def say_json(value: Any) -> None:
    say(json.dumps(value, indent=2))


@app.command()
def up(
    state_dir: StateDir = DEFAULT_FOLDER,
    kafka_port: Annotated[int | None, typer.Option(help="Default: a free port.")] = None,
    aws_port: Annotated[int | None, typer.Option(help="Default: a free port.")] = None,
    console: Annotated[bool, typer.Option(help="Also the console, which shows what happens.")] = True,
    console_port: Annotated[int | None, typer.Option(help="Default: a free port.")] = None,
    as_json: Json = False,
) -> None:
    """Start Kafka, the AWS emulator and the console, and leave them running.

    Example: export-service dev up && eval "$(export-service dev env)"
    """
    running = stacks.Stack.load(state_dir)
    already = running is not None and running.up
    if running is not None and not already:
        running.stop()
    stack = running if running is not None and already else asyncio.run(stacks.up(state_dir, kafka_port, aws_port, detached=True))
    if console and not any(service.up for service in stack.services if service.name == stacks.CONSOLE):
        try:
            stacks.show(stack, console_port)
        except KeyboardInterrupt:
            if not already:
                stack.stop()
            raise
    if as_json:
        return say_json(_described(stack))
    say("Already up." if already else "Up.")
    _print(stack)
    say('Next: eval "$(export-service dev env)" && export-service worker')
    return None


@app.command()
def down(state_dir: StateDir = DEFAULT_FOLDER, as_json: Json = False) -> None:
    """Stop what `dev up` started. Files and logs stay.

    Example: export-service dev down
    """
    stack = stacks.Stack.load(state_dir)
    stopped = stack.stop() if stack else []
    if as_json:
        return say_json({"stopped": stopped})
    return say(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")


@app.command()
def status(state_dir: StateDir = DEFAULT_FOLDER, as_json: Json = False) -> None:
    """Say what is up. Exit code 1 if anything is not.

    Example: export-service dev status --json
    """
    stack = stacks.Stack.load(state_dir)
    if as_json:
        say_json(_described(stack) if stack else {"services": [], "env": {}})
    elif stack is None:
        say(f"No stack in {state_dir}. Start one: export-service dev up")
    else:
        _print(stack)
    if stack is None or not all(service.up for service in stack.services):
        raise typer.Exit(1)


@app.command()
def env(state_dir: StateDir = DEFAULT_FOLDER, as_json: Json = False) -> None:
    """Print the environment that points any client at the stack.

    Example: eval "$(export-service dev env)" && aws sqs list-queues
    """
    stack = stacks.require(state_dir)
    if as_json:
        return say_json(stack.env)
    sys.stdout.write(stacks.exports(stack.env))
    return None


def _described(stack: stacks.Stack) -> dict[str, Any]:
    services = [{"name": s.name, "up": s.up, "port": s.port, "pid": s.pid, "log": s.log} for s in stack.services]
    return {"services": services, "env": stack.env}


def _print(stack: stacks.Stack) -> None:
    for service in stack.services:
        state = "up" if service.up else "down"
        address = f"http://127.0.0.1:{service.port}/" if service.name == stacks.CONSOLE else f"127.0.0.1:{service.port}"
        say(f"  {service.name:<7} {state:<5} {address:<24} pid {service.pid}")
        say(f"          log {service.log}")
