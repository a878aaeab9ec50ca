"""One DynamoDB table: the ledger of attempts (with the task token, and only here) and the newest snapshot of each job.

Keys: `pk` = `JOB#<jobId>`, `sk` = `SNAPSHOT` or `ATTEMPT#0001`. Snapshot attributes have the record's camelCase names; indexes
`by-user` (userId, updatedAt) and `by-status` (status, updatedAt); `expiresAt` is the TTL attribute (seconds since the epoch).
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from connectors.aws import AWS_ERRORS, Clients, code_of, unavailable
from export_service.instants import EVER
from export_service.messages import CallbackAnswered, CallbackOutcome, JobSnapshot, JobStatus, iso_millis
from export_service.ports import Attempt, Planned, among, overtaken
from export_service.redaction import fingerprint
from export_service.settings import Settings

_PAGE = 500
"""Items asked for at a time, where those of other statuses are among them."""
_serialize = TypeSerializer().serialize
_deserialize = TypeDeserializer().deserialize


class DynamoTable:
    """The Ledger and SnapshotStore ports.

    Args:
        client: an aioboto3 DynamoDB client.
        ttl: items expire this long after their last change.
    """

    def __init__(self, client: Any, name: str, ttl: timedelta) -> None:
        self._client, self._name, self._ttl = client, name, ttl

    async def open_attempt(
        self, job_id: str, token: str | None, request_digest: str, seal_key: bytes | None, now: datetime
    ) -> Attempt:
        while True:
            attempts = await self._attempts(job_id)
            if (found := _with_token(attempts, token)) and not overtaken(found, attempts):
                return found
            if attempts and attempts[0].request_digest != request_digest:
                return attempts[0]
            # Not their number: the first ones may have expired.
            number = attempts[-1].number + 1 if attempts else 1
            # One key a job: URLs sealed for its first attempt are opened in every later one.
            key = attempts[0].seal_key if attempts else seal_key
            who = {"tokenFingerprint": fingerprint(token), "taskToken": token}
            if added := await self._add(job_id, number, who | {"requestDigest": request_digest, "sealKey": key}, now):
                return among(added, attempts)
            # Another connector has just opened this attempt: look again.

    async def add_attempt(self, job_id: str, above: int, now: datetime) -> Attempt | None:
        while attempts := await self._attempts(job_id):
            first, number = attempts[0], max(attempts[-1].number, above) + 1
            item = {"byHand": True, "requestDigest": first.request_digest, "sealKey": first.seal_key}
            if added := await self._add(job_id, number, item, now):
                return among(added, attempts)
        return None

    async def _add(self, job_id: str, number: int, item: dict[str, Any], now: datetime) -> Attempt | None:
        """None if there is one with this number."""
        item = item | {"published": False, "receivedAt": iso_millis(now), "expiresAt": self._expires(now)}
        try:
            await self._call(
                "put_item", Item=_item(job_id, _attempt_key(number), item), ConditionExpression="attribute_not_exists(pk)"
            )
        except _ConditionFailed:
            return None
        return _attempt(job_id, number, item)

    async def find_attempt(self, job_id: str, token: str | None) -> Attempt | None:
        return _with_token(await self._attempts(job_id), token)

    async def mark_published(self, job_id: str, number: int) -> None:
        await self._update(job_id, number, "SET published = :yes", {":yes": True})

    async def attempt(self, job_id: str, number: int) -> Attempt | None:
        found = await self._call("get_item", Key=_key(job_id, _attempt_key(number)), ConsistentRead=True)
        return _attempt(job_id, number, _plain(found["Item"])) if "Item" in found else None

    async def seal_key(self, job_id: str) -> bytes | None:
        # The key alone: who downloads has no business with the token.
        found = await self._call("get_item", Key=_key(job_id, _attempt_key(1)), ConsistentRead=True, ProjectionExpression="sealKey")
        key = _plain(found.get("Item", {})).get("sealKey")
        return bytes(key) if key is not None else None

    async def planned(self, job_id: str, number: int) -> Planned:
        wanted = {"ProjectionExpression": "plannedThrough, planDigest, planEnded, planSoFar", "ConsistentRead": True}
        item = _plain((await self._call("get_item", Key=_key(job_id, _attempt_key(number)), **wanted)).get("Item", {}))
        through = item.get("plannedThrough", 0)
        at, _, so_far = (item.get("planSoFar") or "").partition(":")
        # A worker of an earlier version marks how far it is, and leaves a digest of where it was.
        known = so_far if at == str(through) else None
        return Planned(through, item.get("planDigest"), item.get("planEnded", False), known)

    async def mark_planned(self, job_id: str, number: int, planned: Planned) -> None:
        expression = "SET plannedThrough = :through, planDigest = :digest, planEnded = :ended, planSoFar = :soFar"
        values = {
            ":through": planned.through,
            ":digest": planned.digest,
            ":ended": planned.ended,
            ":soFar": f"{planned.through}:{planned.so_far}" if planned.so_far else None,
            ":no": False,
        }
        # A plan that was taken over may still say how far it was, when its next owner has ended it.
        only = "attribute_exists(pk) AND (attribute_not_exists(planEnded) OR planEnded = :no)"
        await self._update(job_id, number, expression, values, only)

    async def claim(self, job_id: str, number: int, now: datetime) -> Attempt | None:
        expression = "SET claimedAt = if_not_exists(claimedAt, :now)"
        values = {":now": iso_millis(now)}
        before = await self._update(job_id, number, expression, values, "attribute_exists(taskToken)", returned="ALL_OLD")
        return _attempt(job_id, number, _plain(before)) if before else None

    async def record_answer(self, answer: CallbackAnswered) -> None:
        values = {":answer": answer.to_bytes().decode(), ":outcome": answer.outcome.value}
        # Two workers may have sent it: what the one heard whose call was accepted is the truth.
        only = (
            "attribute_exists(pk)"
            if answer.outcome is CallbackOutcome.SENT
            else "attribute_exists(pk) AND attribute_not_exists(callback)"
        )
        await self._update(answer.job_id, answer.attempt, "SET callback = :answer, callbackOutcome = :outcome", values, only)

    async def put(self, snapshot: JobSnapshot) -> bool:
        fields = snapshot.model_dump(mode="json", exclude_none=True)
        fields["expiresAt"] = self._expires(snapshot.updated_at)
        try:
            await self._call(
                "put_item",
                Item=_item(snapshot.job_id, "SNAPSHOT", fields),
                ConditionExpression="attribute_not_exists(pk) OR attempt < :attempt OR (attempt = :attempt AND version < :version)",
                ExpressionAttributeValues=_values({":attempt": snapshot.attempt, ":version": snapshot.version}),
            )
        except _ConditionFailed:
            return False
        return True

    async def get(self, job_id: str) -> JobSnapshot | None:
        found = await self._call("get_item", Key=_key(job_id, "SNAPSHOT"), ConsistentRead=True)
        return JobSnapshot.model_validate(_plain(found["Item"])) if "Item" in found else None

    async def of_status(self, status: JobStatus, since: datetime) -> list[JobSnapshot]:
        """Jobs with this status that moved last at `since` or later. Read from an index, which may be a moment behind."""
        return await self._snapshots(
            "by-status", "#status", {":value": status.value}, since, ExpressionAttributeNames={"#status": "status"}
        )

    async def of_user(self, user_id: str, since: datetime) -> list[JobSnapshot]:
        """His jobs, likewise."""
        return await self._snapshots("by-user", "userId", {":value": user_id}, since)

    async def newest(
        self, most: int, statuses: Collection[JobStatus], *, user_id: str | None = None, since: datetime = EVER
    ) -> list[JobSnapshot]:
        """Jobs with one of these statuses, those that moved last first. From the indexes, which may be a moment behind; it reads the items
        that it returns, once for each status; of a user's jobs also those of other statuses that moved later."""
        found: dict[str, JobSnapshot] = {}
        # In the order in which jobs go through them: one that moves on meanwhile is seen twice rather than never.
        for status in (None,) if user_id is not None else [each for each in JobStatus if each in statuses]:
            index, name, value = ("by-user", "userId", user_id) if status is None else ("by-status", "status", status.value)
            items = self._query(
                IndexName=index,
                KeyConditionExpression="#name = :value AND updatedAt >= :since",
                ExpressionAttributeNames={"#name": name},
                ExpressionAttributeValues=_values({":value": value, ":since": iso_millis(since)}),
                ScanIndexForward=False,
                Limit=most if user_id is None else max(most, _PAGE),
            )
            number = 0
            async for item in items:
                job = JobSnapshot.model_validate(item)
                if job.status not in statuses:
                    continue
                known = found.get(job.job_id)
                if known is None or (known.attempt, known.version) < (job.attempt, job.version):
                    found[job.job_id] = job
                if (number := number + 1) == most:
                    break
        return sorted(found.values(), key=lambda job: (job.updated_at, job.job_id), reverse=True)[:most]

    async def asked(self, job_id: str) -> list[tuple[int, datetime]]:
        """Attempts that are published, and when each was received. Without their tokens."""
        items = self._query(
            KeyConditionExpression="pk = :pk AND begins_with(sk, :attempt)",
            ExpressionAttributeValues=_values({":pk": f"JOB#{job_id}", ":attempt": "ATTEMPT#"}),
            ProjectionExpression="sk, published, receivedAt",
            ConsistentRead=True,
        )
        return [(_number(item), datetime.fromisoformat(item["receivedAt"])) async for item in items if item["published"]]

    async def _snapshots(self, index: str, name: str, value: dict[str, Any], since: datetime, **more: Any) -> list[JobSnapshot]:
        wanted = f"{name} = :value AND updatedAt >= :since"
        values = _values(value | {":since": iso_millis(since)})
        items = self._query(IndexName=index, KeyConditionExpression=wanted, ExpressionAttributeValues=values, **more)
        return [JobSnapshot.model_validate(item) async for item in items]

    async def _attempts(self, job_id: str) -> list[Attempt]:
        items = self._query(
            KeyConditionExpression="pk = :pk AND begins_with(sk, :attempt)",
            ExpressionAttributeValues=_values({":pk": f"JOB#{job_id}", ":attempt": "ATTEMPT#"}),
            ConsistentRead=True,
        )
        return [_attempt(job_id, _number(item), item) async for item in items]

    async def _query(self, **arguments: Any) -> AsyncIterator[dict[str, Any]]:
        start: dict[str, Any] = {}
        while True:
            page = await self._call("query", **arguments, **start)
            for raw in page["Items"]:
                yield _plain(raw)
            if "LastEvaluatedKey" not in page:
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    async def _update(
        self,
        job_id: str,
        number: int,
        expression: str,
        values: dict[str, Any],
        condition: str = "attribute_exists(pk)",
        *,
        returned: str = "NONE",
    ) -> dict[str, Any]:
        """The item as it was, if `returned` says so; it has the token. Empty where `condition` does not hold: without one an update
        makes a missing item, and what has expired would be an attempt without a digest."""
        with suppress(_ConditionFailed):
            answer = await self._call(
                "update_item",
                Key=_key(job_id, _attempt_key(number)),
                UpdateExpression=expression,
                ExpressionAttributeValues=_values(values),
                ConditionExpression=condition,
                ReturnValues=returned,
            )
            return dict(answer.get("Attributes", {}))
        return {}

    def _expires(self, now: datetime) -> int:
        return int((now + self._ttl).timestamp())

    async def _call(self, operation: str, **arguments: Any) -> Any:
        try:
            return await getattr(self._client, operation)(TableName=self._name, **arguments)
        except AWS_ERRORS as error:
            if isinstance(error, ClientError) and code_of(error) == "ConditionalCheckFailedException":
                raise _ConditionFailed from None
            raise unavailable("dynamodb", error, "EXPORT_TABLE_NAME") from None


class _ConditionFailed(Exception):
    pass


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[DynamoTable]:
    """The settings' table, for who needs nothing else of AWS."""
    async with Clients(settings.aws).open("dynamodb") as client:
        yield DynamoTable(client, settings.table.name, timedelta(days=settings.table.ttl_days))


def _with_token(attempts: list[Attempt], token: str | None) -> Attempt | None:
    mark = fingerprint(token)
    return next(
        (among(attempt, attempts) for attempt in reversed(attempts) if fingerprint(attempt.token) == mark and not attempt.by_hand),
        None,
    )


def _attempt_key(number: int) -> str:
    return f"ATTEMPT#{number:04d}"


def _number(item: dict[str, Any]) -> int:
    return int(item["sk"].removeprefix("ATTEMPT#"))


def _key(job_id: str, sort: str) -> dict[str, Any]:
    return _values({"pk": f"JOB#{job_id}", "sk": sort})


def _item(job_id: str, sort: str, fields: dict[str, Any]) -> dict[str, Any]:
    return _key(job_id, sort) | _values({name: value for name, value in fields.items() if value is not None})


def _values(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _serialize(Decimal(str(value)) if isinstance(value, float) else value) for name, value in fields.items()}


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    plain = {name: _deserialize(value) for name, value in item.items()}
    return {name: int(value) if isinstance(value, Decimal) else value for name, value in plain.items()}


def _attempt(job_id: str, number: int, item: dict[str, Any]) -> Attempt:
    key = item.get("sealKey")
    return Attempt(
        job_id=job_id,
        number=number,
        request_digest=item["requestDigest"],
        token=item.get("taskToken"),
        published=item["published"],
        answer=CallbackAnswered.model_validate_json(item["callback"]) if "callback" in item else None,
        seal_key=bytes(key) if key is not None else None,
        by_hand=item.get("byHand", False),
        claimed="claimedAt" in item,
    )
