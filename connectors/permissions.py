"""Tries each AWS action that a role needs, so that nothing is changed: on a job, a handle, an upload or a token that does not exist.

AWS looks at permissions before anything else, so any other refusal than a denial says that the action is allowed.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from botocore.exceptions import ClientError

from connectors.aws import AWS_ERRORS, Clients, code_of, is_denied, unavailable
from export_service.findings import Finding, Level
from export_service.settings import Settings

_GONE = (
    "QueueDoesNotExist",
    "NonExistentQueue",
    "AWS.SimpleQueueService.NonExistentQueue",
    "ResourceNotFoundException",
    "NoSuchBucket",
)
_SKEW_WARNING, _SKEW_FAILED = 5.0, 60.0
"""Seconds. AWS refuses requests that are five minutes off; heartbeats and deadlines suffer long before."""
_NOBODY = {"pk": {"S": "JOB#export-service-doctor"}, "sk": {"S": "NOTHING"}}


@dataclass(frozen=True)
class Try:
    """`fine`: refusals that show that the action is allowed. `setting`: names the resource."""

    action: str
    service: str
    operation: str
    arguments: Mapping[str, Any]
    setting: str
    fine: tuple[str, ...] = field(default=())


def tries(settings: Settings, role: str, source: str | None = None) -> list[Try]:
    """Of one role, or of `sweep`. `source`: an s3:// URL that the role must be able to read. Without a bucket in the settings there is
    nothing to try on it."""
    table, name = settings.table.name, "EXPORT_TABLE_NAME"

    def dynamo(action: str) -> Try:
        arguments: dict[str, Any] = {"TableName": table}
        if action == "Query":
            arguments |= {"KeyConditionExpression": "pk = :pk", "ExpressionAttributeValues": {":pk": _NOBODY["pk"]}, "Limit": 1}
        elif action == "PutItem":
            arguments |= {"Item": _NOBODY, "ConditionExpression": "attribute_exists(pk)"}
        else:
            arguments["Key"] = _NOBODY
        if action == "UpdateItem":
            arguments |= {
                "UpdateExpression": "SET published = :no",
                "ExpressionAttributeValues": {":no": {"BOOL": False}},
                "ConditionExpression": "attribute_exists(pk)",
            }
        operation = {"Query": "query", "PutItem": "put_item", "GetItem": "get_item", "UpdateItem": "update_item"}[action]
        return Try(f"dynamodb:{action}", "dynamodb", operation, arguments, name, ("ConditionalCheckFailedException",))

    def states(action: str) -> Try:
        operation = {"Success": "send_task_success", "Failure": "send_task_failure", "Heartbeat": "send_task_heartbeat"}[action]
        arguments = {"taskToken": "export-service-doctor"} | ({"output": "{}"} if action == "Success" else {})
        return Try(
            f"states:SendTask{action}",
            "stepfunctions",
            operation,
            arguments,
            "AWS_REGION",
            ("InvalidToken", "TaskDoesNotExist", "TaskTimedOut"),
        )

    def read(url: str | None) -> list[Try]:
        if url is None:
            return []
        bucket, key = _place(url)
        arguments = {"Bucket": bucket, "Key": key, "Range": "bytes=0-0"}
        return [Try("s3:GetObject", "s3", "get_object", arguments, url, ("InvalidRange",))]

    def write(suffix: str) -> list[Try]:
        if urlsplit(settings.destination).scheme != "s3":
            return []
        bucket, key = _place(_fill(settings.destination))
        arguments = {"Bucket": bucket, "Key": key + suffix}
        nothing, where = arguments | {"UploadId": "export-service-doctor"}, "EXPORT_DESTINATION"
        return [
            Try("s3:AbortMultipartUpload", "s3", "abort_multipart_upload", nothing, where, ("NoSuchUpload",)),
            # Begun and aborted: there is never an object.
            Try("s3:PutObject", "s3", "create_multipart_upload", arguments, where),
        ]

    def sweep() -> list[Try]:
        if urlsplit(settings.destination).scheme != "s3":
            return []
        bucket, key = _place(_fill(settings.destination))
        upload = {"Bucket": bucket, "Key": key + "x", "UploadId": "export-service-doctor"}
        where = "EXPORT_DESTINATION"
        return [
            Try("s3:ListBucketMultipartUploads", "s3", "list_multipart_uploads", {"Bucket": bucket, "MaxUploads": 1}, where),
            Try("s3:ListMultipartUploadParts", "s3", "list_parts", upload, where, ("NoSuchUpload",)),
            Try("s3:AbortMultipartUpload", "s3", "abort_multipart_upload", upload, where, ("NoSuchUpload",)),
        ]

    match role:
        case "connector":
            return [*_queue(settings), dynamo("Query"), dynamo("PutItem"), dynamo("UpdateItem"), states("Failure")]
        case "plan":
            catalog = settings.catalog if settings.catalog and settings.catalog.startswith("s3://") else None
            bucket = _place(source or catalog or "s3://")[0]
            listing = Try("s3:ListBucket", "s3", "list_objects_v2", {"Bucket": bucket, "MaxKeys": 1}, source or "EXPORT_CATALOG")
            return [
                *read(source or (_fill(catalog) if catalog else None)),
                *([listing] if bucket else []),
                dynamo("GetItem"),
                dynamo("UpdateItem"),
            ]
        case "download":
            return [*read(source), *write("x"), dynamo("GetItem")]
        case "callback":
            return [states("Success"), states("Failure"), dynamo("UpdateItem"), *write("_report.jsonl")]
        case "snapshot":
            return [dynamo("PutItem")]
        case "watch":
            return [states("Heartbeat"), dynamo("GetItem")]
        case "sweep":
            return sweep()
    return []


async def try_all(settings: Settings, roles: Sequence[str], source: str | None = None) -> AsyncIterator[Finding]:
    """A finding for each action, and one for the clock, which AWS's answers tell."""
    skew: float | None = None
    may_abort = False
    async with AsyncExitStack() as stack:
        clients = Clients(settings.aws)
        opened: dict[str, Any] = {}
        for role in roles:
            if role == "connector" and settings.queue.url is None:
                yield Finding(
                    Level.FAILED,
                    "connector",
                    "EXPORT_QUEUE_URL is not set",
                    "set it: the connector role needs the SQS queue to read",
                )
            for each in tries(settings, role, source):
                if each.service not in opened:
                    opened[each.service] = await stack.enter_async_context(clients.open(each.service))
                if each.operation == "create_multipart_upload" and not may_abort:
                    text = "not tried, as what is begun could not be aborted"
                    yield Finding(Level.UNKNOWN, f"{role}: {each.action}", text, "allow s3:AbortMultipartUpload first")
                    continue
                finding, date = await _try(opened[each.service], each, role)
                yield finding
                if each.operation == "abort_multipart_upload":
                    may_abort = finding.level is Level.OK
                if date is not None:
                    skew = (datetime.now(UTC) - date).total_seconds()
    if skew is not None:
        yield _clock(skew)


async def _try(client: Any, each: Try, role: str) -> tuple[Finding, datetime | None]:
    about = f"{role}: {each.action}"
    try:
        if each.action == "sqs:ReceiveMessage" and (waiting := await _messages(client, each.arguments["QueueUrl"])) != 0:
            # Each receive counts for its message, and the queue's redrive policy counts too.
            text = (
                "not tried, as " + ("nobody may know how many" if waiting is None else str(waiting)) + " messages are on the queue"
            )
            way_out = "ask again when the queue is empty" if waiting else "allow sqs:GetQueueAttributes first"
            return Finding(Level.UNKNOWN, about, text, way_out), None
        answer = await getattr(client, each.operation)(**each.arguments)
        if each.operation == "create_multipart_upload":
            own = {name: each.arguments[name] for name in ("Bucket", "Key")}
            await client.abort_multipart_upload(**own, UploadId=answer["UploadId"])
    except ClientError as error:
        return _refused(each, about, role, code_of(error)), _date(error.response)
    except AWS_ERRORS as error:
        failed = unavailable(each.service, error, each.setting)
        return Finding(Level.FAILED, about, f"{failed.what} does not answer: {failed.detail}", f"check {failed.setting}"), None
    return Finding(Level.OK, about, "allowed"), _date(answer)


def _refused(each: Try, about: str, role: str, code: str) -> Finding:
    allow = f"allow {each.action} as deploy/iam/{role}.json does, for the credentials in use; look at {each.setting} too"
    if code in each.fine:
        return Finding(Level.OK, about, f"allowed ({code}, as it should be)")
    if each.action == "s3:GetObject" and (code in ("404", "NoSuchKey") or is_denied(code)):
        # Without s3:ListBucket, S3 hides whether an object exists.
        if code in ("404", "NoSuchKey"):
            return Finding(Level.OK, about, "allowed (the object does not exist)")
        text = "refused: either it is not allowed, or the object does not exist and s3:ListBucket is not allowed"
        return Finding(Level.UNKNOWN, about, text, f"name an object that exists with --source s3://bucket/key, or {allow}")
    if is_denied(code):
        return Finding(Level.FAILED, about, f"not allowed: {code}", allow)
    if code in _GONE:
        return Finding(
            Level.FAILED, about, f"what it is for does not exist: {code}", f"create it, or correct {each.setting} or AWS_REGION"
        )
    return Finding(Level.UNKNOWN, about, f"answered {code}", f"check {each.setting}")


def _queue(settings: Settings) -> list[Try]:
    if settings.queue.url is None:
        return []
    url, setting = {"QueueUrl": settings.queue.url}, "EXPORT_QUEUE_URL"
    handle = url | {"ReceiptHandle": "export-service-doctor"}
    invalid = ("ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight")
    at_once = {"MaxNumberOfMessages": 1, "VisibilityTimeout": 0, "WaitTimeSeconds": 0}
    return [
        Try("sqs:GetQueueAttributes", "sqs", "get_queue_attributes", url | {"AttributeNames": ["VisibilityTimeout"]}, setting),
        Try("sqs:ReceiveMessage", "sqs", "receive_message", url | at_once, setting),
        Try("sqs:DeleteMessage", "sqs", "delete_message", handle, setting, invalid),
        Try("sqs:ChangeMessageVisibility", "sqs", "change_message_visibility", handle | {"VisibilityTimeout": 0}, setting, invalid),
    ]


async def _messages(client: Any, url: str) -> int | None:
    """About; None: we may not know."""
    names = ["ApproximateNumberOfMessages"]
    try:
        answer = await client.get_queue_attributes(QueueUrl=url, AttributeNames=names)
    except ClientError as error:
        if not is_denied(code_of(error)):
            raise
        return None
    return int(answer["Attributes"][names[0]])


def _clock(skew: float) -> Finding:
    off = abs(skew)
    level = Level.FAILED if off > _SKEW_FAILED else Level.WARNING if off > _SKEW_WARNING else Level.OK
    text = f"{off:.0f} s {'ahead of' if skew > 0 else 'behind'} AWS's" if level is not Level.OK else "within 5 s of AWS's"
    return Finding(level, "clock", f"this machine's clock is {text}", "" if level is Level.OK else "set it by NTP")


def _date(answer: Mapping[str, Any]) -> datetime | None:
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date) if date else None


def _place(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.netloc, parts.path.lstrip("/")


def _fill(template: str) -> str:
    """With names that nobody has."""
    mark = f"export-service-doctor-{uuid4().hex[:8]}"
    return template.replace("{jobId}", mark).replace("{exportId}", mark).replace("{userId}", mark)
