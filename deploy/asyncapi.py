"""The AsyncAPI 3.0 document of the topics and the queue, and the same for people. Made from the record types and the manifest."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml
from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from pydantic.json_schema import models_json_schema

from deploy.pages import cell
from export_service import jobs, messages, rebuilt, requests
from export_service.settings import Settings
from streams.topics import TopicSpec, short_names, topics

_REF = "#/components/schemas/"
_QUEUE = "queue"
SHARD = "Shard"

_DESCRIPTION = """The records of export-service on Kafka, and the message that it takes from SQS. Changes are additive: a reader ignores
fields that it does not know, and takes the default of one that is absent. No record has a task token; the query of a URL travels sealed."""

_PAGE = """<!-- Made by `python -m deploy.generate` from export_service/messages.py and streams/topics.py: change those. -->

# Messages

What is on each topic. For programs: [asyncapi.yaml](asyncapi.yaml) (AsyncAPI 3.0). The message that asks for an export is in
[the guide](guide.md#sqs-message), and what Step Functions is told too.

Values are UTF-8 JSON, one object, `v` is the version of the schema; only shards are binary. Times are ISO 8601 in UTC with milliseconds.
An optional field may be absent; a reader ignores fields that it does not know. Headers: a record that a message brings (on
`requests`, and AttemptOpened on `results`) has the message's SQS attributes, without those that name a task token.

"""


def types() -> Mapping[str, type]:
    """Every kind of record that a topic of the manifest carries but the binary one, by name, in flow order."""
    found: dict[str, type] = {}
    for spec in _manifest().values():
        for name in spec.carries.split(", "):
            if name != SHARD:
                found[name] = next(getattr(module, name) for module in (messages, rebuilt, jobs) if hasattr(module, name))
    return found


def _manifest() -> dict[str, TopicSpec]:
    return short_names(topics(Settings.model_construct()))


def document() -> dict[str, Any]:
    """The whole document."""
    channels: dict[str, Any] = {
        _QUEUE: {
            "address": None,
            "title": "The SQS queue EXPORT_QUEUE_URL",
            "description": "Requests for exports. One message is one attempt of one job.",
            "servers": [{"$ref": "#/servers/sqs"}],
            "messages": {"ExportMessage": {"$ref": "#/components/messages/ExportMessage"}},
        }
    }
    for short, spec in _manifest().items():
        config: dict[str, Any] = {
            name: int(value) if value.isdecimal() else value.split(",") if name == "cleanup.policy" else value
            for name, value in spec.config.items()
        }
        channels[short] = {
            "address": spec.name,
            "description": f"Key: {spec.key}.",
            "servers": [{"$ref": "#/servers/kafka"}],
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in spec.carries.split(", ")},
            "bindings": {
                "kafka": {
                    "topic": spec.name,
                    "partitions": spec.partitions,
                    "topicConfiguration": config,
                    "bindingVersion": "0.5.0",
                }
            },
        }
    operations: dict[str, Any] = {
        "connector.receive.queue": {"action": "receive", "channel": {"$ref": f"#/channels/{_QUEUE}"}},
    }
    for short, spec in _manifest().items():
        for action, who in (("send", spec.written_by), ("receive", spec.read_by)):
            operations |= {
                f"{role}.{action}.{short}": {"action": action, "channel": {"$ref": f"#/channels/{short}"}} for role in who
            }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "export-service",
            "version": str(messages.Record.model_fields["v"].default),
            "description": _DESCRIPTION,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{bootstrapServers}",
                "protocol": "kafka",
                "variables": {
                    "bootstrapServers": {
                        "default": Settings.model_fields["kafka"].default.bootstrap_servers,
                        "description": "EXPORT_KAFKA_BOOTSTRAP_SERVERS",
                    }
                },
            },
            "sqs": {
                "host": "sqs.{region}.amazonaws.com",
                "protocol": "sqs",
                "variables": {"region": {"description": "AWS_REGION"}},
            },
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": _messages(), "schemas": schemas()},
    }


def _messages() -> dict[str, Any]:
    found: dict[str, Any] = {
        name: {"name": name, "summary": _said(kind)[0], "payload": {"$ref": _REF + name}}
        for name, kind in {"ExportMessage": requests.ExportMessage, **types()}.items()
    }
    found[SHARD] = {
        "name": SHARD,
        "summary": "Bitmaps of the outcomes of up to 8,192 tasks; `export_service/shards.py` reads and writes them.",
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "format": "binary"},
    }
    return found


def schemas() -> dict[str, Any]:
    """JSON Schemas (draft 7, as AsyncAPI wants it) of all records and of what they are made of, described by the docstrings in the code."""
    kinds = [requests.ExportMessage, *types().values()]
    records = [kind for kind in kinds if issubclass(kind, BaseModel)]
    packed = [kind for kind in kinds if issubclass(kind, msgspec.Struct)]
    _, made = models_json_schema([(kind, "validation") for kind in records], ref_template=_REF + "{model}")
    _, more = msgspec.json.schema_components(packed, ref_template=_REF + "{name}")
    found: dict[str, Any] = {name: _draft7(schema) for name, schema in sorted((made["$defs"] | more).items())}
    for name, schema in found.items():
        kind = next((getattr(module, name) for module in (messages, requests, jobs, rebuilt) if hasattr(module, name)), None)
        for field, said in _field_docs(kind).items() if kind else ():
            schema.get("properties", {}).get(field, {}).setdefault("description", said)
    return found


def _draft7(schema: Any) -> Any:
    """Without pydantic's titles, and tuples as draft 7 has them."""
    if isinstance(schema, list):
        return [_draft7(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {("items" if name == "prefixItems" else name): value for name, value in schema.items()}
    if schema.get("title") is not None and isinstance(schema["title"], str):
        del schema["title"]
    if isinstance(schema.get("description"), str):
        schema["description"] = _flat(schema["description"])
    return {name: _draft7(value) for name, value in schema.items()}


def _flat(text: str) -> str:
    return " ".join(text.split())


def _said(kind: type) -> list[str]:
    """Paragraphs of its docstring."""
    return [_flat(part) for part in inspect.cleandoc(kind.__doc__ or "").split("\n\n")]


def _field_docs(kind: type) -> dict[str, str]:
    """Alias of a field -> the string below it in the source, with those of the classes that it inherits from."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if each.__module__.partition(".")[0] != "export_service":
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    found[to_camel(name)] = _flat(said)
    return found


def text() -> str:
    made = yaml.safe_dump(document(), sort_keys=False, allow_unicode=True, width=120)
    return f"# Made by `python -m deploy.generate` from export_service/messages.py and streams/topics.py: change those.\n{made}"


def page() -> str:
    manifest, known, made = _manifest(), types(), schemas()
    lines = [_PAGE + "| Record | On |", "|---|---|"]
    for name in (*known, SHARD):
        on = ", ".join(f"`{short}`" for short, spec in manifest.items() if name in spec.carries.split(", "))
        lines.append(f"| [{name}](#{name.lower()}) | {on} |")
    for name, kind in known.items():
        lines += ["", f"## {name}", "", *_joined(_said(kind)), *_rows(made[name])]
    lines += ["", f"## {SHARD}", "", _messages()[SHARD]["summary"]]
    inner = [name for name in made if name not in known and name not in ("ExportMessage", "FileBody", "ManifestBody")]
    lines += ["", "## Parts of records"]
    for name in inner:
        lines += ["", f"### {name}", "", made[name].get("description", "")]
        lines += [", ".join(f"`{value}`" for value in made[name]["enum"])] if "enum" in made[name] else _rows(made[name])
    return "\n".join(lines) + "\n"


def _joined(paragraphs: list[str]) -> Iterator[str]:
    for each in paragraphs:
        yield from (each, "")


def _rows(schema: Mapping[str, Any]) -> list[str]:
    rows = ["| Field | Type | | Meaning |", "|---|---|---|---|"]
    for name, field in schema.get("properties", {}).items():
        given = "always" if name in schema.get("required", ()) or "const" in field or field.get("enum") == [1] else "optional"
        rows.append(f"| `{name}` | {cell(_type(field))} | {given} | {cell(field.get('description', ''))} |")
    return rows if len(rows) > 2 else []


def _type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].removeprefix(_REF)
        return f"[{name}](#{name.lower()})"
    if "const" in field or "enum" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"] if each.get("type") != "null")
    if field.get("type") == "array":
        inner = field.get("items", {})
        return "list of " + (_type(inner) if isinstance(inner, dict) else ", ".join(_type(each) for each in inner))
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object of {_type(field['additionalProperties'])}"
    return "time" if field.get("format") == "date-time" else str(field.get("type", "anything"))
