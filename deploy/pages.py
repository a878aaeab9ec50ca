"""The pages of the docs that are lists of what the code has: settings, topics, commands. Written by `deploy.generate`."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.main import get_command

from export_service.cli.main import registered
from export_service.settings import Aws, Settings
from streams.topics import TopicSpec, topics

_MADE = "<!-- Made by `python -m deploy.generate` from {source}: change that. -->\n\n"

_SETTINGS = """# Settings

Environment variables, read once at start. `export-service config` prints each with the value that is in force; `export-service doctor` says
whether they fit together. A mistake ends the command with exit code 78 and a sentence for each, and nothing was done. Any `EXPORT_`
setting may be given as a file: `EXPORT_KAFKA_SASL_PASSWORD_FILE` holds the path of a file with the password.

Credentials of AWS are found as by any AWS SDK: environment, profile, role of the container or machine. What most people set, and why, is
in [the guide](guide.md#configuration).
"""

_TOPICS = """# Topics

`export-service topics list` prints this with your settings, `topics declare` creates what is missing, `topics retention` says what is
still there. P is `EXPORT_TOPICS_PARTITIONS`, D is `EXPORT_TOPICS_TASK_PARTITIONS`; both have their defaults here. What the records look
like is in [messages](messages.md), and for programs in [asyncapi.yaml](asyncapi.yaml); why they are cut like this in
[architecture](architecture.md#topics).

*People* are commands of `export-service` that change something, such as `dead-letters redrive`, `limits set` and `rewind`. `console`,
`explain`, `export`, `replay` and `verify` may read all of them. The prefix `export.` is `EXPORT_TOPICS_PREFIX`, that of the changelogs
`EXPORT_APP_ID`.

| Topic | Key | Carries | Partitions | Kept | Written by | Read by |
|---|---|---|---|---|---|---|
"""

_CLI = """# Commands

`export-service`, in a checkout also `./dev`, and `python -m export_service`. Each command has `--help`.

| Exit code | Means |
|---|---|
| 0 | done |
| 1 | failed, refused, or found what it looks for; the last line says what |
| 2 | wrong usage |
| 75 | a worker's tables could not be recovered: start it again |
| 78 | a setting is wrong: starting again does not help |
| 130 | Ctrl-C |
"""


def cell(text: object) -> str:
    """Text of a table's cell."""
    return " ".join(str(text).split()).replace("|", "\\|")


def settings_page() -> str:
    lines = [_MADE.format(source="export_service/settings.py") + _SETTINGS]
    general = {name: field for name, field in Settings.model_fields.items() if not hasattr(field.annotation, "model_fields")}
    lines += _section("General", "EXPORT_", general)
    for name, field in Settings.model_fields.items():
        if (group := _model(field)) is not None and group is not Aws:
            lines += _section(name.capitalize(), f"EXPORT_{name.upper()}_", group.model_fields)
    lines += _section("AWS", "AWS_", Aws.model_fields)
    return "\n".join(lines) + "\n"


def _model(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _section(title: str, prefix: str, fields: dict[str, FieldInfo]) -> list[str]:
    rows = [f"\n## {title}\n", "| Variable | Default | Value | Meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = shown_default(field)
        rows.append(
            f"| `{prefix}{name.upper()}` | {f'`{cell(default)}`' if default else ''} | {cell(_kind(field))} | {cell(field.description)} |"
        )
    return rows


def shown_default(field: FieldInfo) -> str:
    """As it would be written into the environment; empty if there is none."""
    value = field.default
    if value is None or value is PydanticUndefined:
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)


def _kind(field: FieldInfo) -> str:
    kinds = list(_kinds(field.annotation))
    limits = [f"{sign} {getattr(limit, name):g}" for limit in field.metadata for sign, name in _SIGNS if hasattr(limit, name)]
    return ", ".join(dict.fromkeys(kinds)) + (f" ({', '.join(limits)})" if limits else "")


_SIGNS = (("≥", "ge"), (">", "gt"), ("≤", "le"))
_KINDS = {str: "text", int: "number", float: "number", bool: "true, false", Path: "path", SecretStr: "secret"}


def _kinds(kind: Any) -> Iterator[str]:
    if str(get_origin(kind)) == "typing.Literal":
        yield ", ".join(f"`{value}`" for value in get_args(kind))
    elif get_origin(kind) is tuple:
        yield "list"
    elif kind in _KINDS:
        yield _KINDS[kind]
    else:
        for part in get_args(kind):
            yield from _kinds(part)


def kept(spec: TopicSpec) -> str:
    if spec.fleeting:
        return "1 hour"
    days = f"{spec.retention_days} days"
    return ("compacted, " + days if spec.expires else "compacted") if spec.compacted else days


def topics_page() -> str:
    manifest = topics(Settings.model_construct()).manifest()
    text = _MADE.format(source="streams/topics.py") + _TOPICS
    for spec in manifest:
        carries = ", ".join(f"[{name}](messages.md#{name.lower()})" for name in spec.carries.split(", "))
        letter = "D = " if spec.key == "job:index" else "" if spec.partitions == 1 else "P = "
        text += (
            f"| `{spec.name}` | {spec.key} | {carries} | {letter}{spec.partitions} | {kept(spec)} "
            f"| {', '.join(spec.written_by)} | {', '.join(spec.read_by)} |\n"
        )
    text += "\n## Configuration\n\nAs `topics declare` sets it. `min.insync.replicas` is one less than"
    text += " `EXPORT_KAFKA_REPLICATION_FACTOR`, and at least 1.\n\n| Topic | Settings |\n|---|---|\n"
    for spec in manifest:
        text += f"| `{spec.name}` | {', '.join(f'`{name}={value}`' for name, value in spec.config.items())} |\n"
    return text


def commands() -> Iterable[tuple[str, Any]]:
    """(`dead-letters redrive`, its click command) of each, as `--help` has them in order."""
    root: Any = get_command(registered())
    for name, command in root.commands.items():
        if inner := getattr(command, "commands", None):
            yield from ((f"{name} {each}", under) for each, under in inner.items())
        else:
            yield name, command


def cli_page() -> str:
    text = _MADE.format(source="export_service/cli/") + _CLI
    for name, command in commands():
        said, _, example = command.help.partition("Example: ")
        arguments = [each for each in command.params if not each.opts[0].startswith("-")]
        options = [each for each in command.params if each.opts[0].startswith("-") and "--help" not in each.opts]
        named = "".join(f" {each.metavar or each.name.upper()}" for each in arguments)
        text += f"\n## {name}\n\n{_paragraphs(said)}\n\n```bash\n{example.strip()}\n```\n\n"
        text += f"Usage: `export-service {name}{' [OPTIONS]' if options else ''}{named}`\n"
        if options or any(each.help for each in arguments):
            text += "\n| Option | Meaning |\n|---|---|\n"
        for each in arguments:
            text += f"| `{each.metavar or each.name.upper()}` | {cell(each.help)} |\n" if each.help else ""
        for each in options:
            flags = ", ".join(f"`{flag}`" for flag in (*each.opts, *each.secondary_opts))
            value = "" if each.is_flag else f" {(each.metavar or 'VALUE')}" + (" …" if each.multiple else "")
            told = each.is_flag or each.default in (None, [], ()) or "Default" in (each.help or "")
            default = "" if told else f" Default: `{cell(each.default)}`."
            text += f"| {flags}{value} | {cell(each.help)}{default} |\n"
    return text


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(each.split()) for each in re.split(r"\n\s*\n", text.strip()))
