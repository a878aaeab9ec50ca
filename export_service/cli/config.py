"""`export-service config`: every setting, its value here, and what it means."""

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from pydantic import BaseModel, SecretStr

from export_service.redaction import without_secrets
from export_service.settings import Settings, load


def config(as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False) -> None:
    """Show every setting with the value that is in force. Secrets are hidden.

    Example: export-service config --json
    """
    settings = load()
    rows = list(walk(settings))
    if as_json:
        sys.stdout.write(json.dumps({name: value for name, value, _ in rows}, indent=2) + "\n")
        return
    for name, value, meaning in rows:
        sys.stdout.write(f"{name}={'' if value is None else value}\n" + (f"    {meaning}\n" if meaning else ""))


def walk(model: BaseModel, prefix: str = "EXPORT_") -> Iterator[tuple[str, Any, str | None]]:
    """(environment variable, value, meaning) of every setting; the docs are made from this too."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(model, Settings) and name == "aws":
            yield from walk(value, "AWS_")
        elif isinstance(value, BaseModel):
            yield from walk(value, f"{prefix}{name.upper()}_")
        else:
            shown = "(set)" if isinstance(value, SecretStr) else ",".join(map(str, value)) if isinstance(value, tuple) else value
            # An endpoint may have a password.
            yield prefix + name.upper(), without_secrets(str(shown)) if shown is not None else None, field.description
