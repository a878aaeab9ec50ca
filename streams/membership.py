"""Consumer groups: static membership as a broker means it, and errors of a group that would otherwise reach nobody.

aiokafka 0.14 joins with the instance id, but its heartbeats and commits do not carry it. Of two workers with one id the older then hears
`UnknownMemberId`, joins again and throws out the younger, and so on for ever. With the id, the broker tells it that it is fenced.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from aiokafka.errors import KafkaError, UnknownMemberIdError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetCommitResponse_v3
from aiokafka.protocol.group import HeartbeatRequest, HeartbeatResponse_v1, SyncGroupRequest
from aiokafka.protocol.types import Array, Int32, Int64, Schema, String

from export_service.failures import ExportError, SettingsError

_FENCED_INSTANCE_ID = 82
"""Kafka's error code; aiokafka has no class for it."""
_REBALANCING = 27
"""The answer to a heartbeat that is heard, but should join again."""
_HEARD = (HeartbeatRequest, SyncGroupRequest)
_SURE = 0.75
"""Of a session timeout: the rest is for what was decided and is on its way."""


class _HeartbeatResponse(Response):
    API_KEY, API_VERSION, SCHEMA = 12, 3, HeartbeatResponse_v1.SCHEMA


class _Heartbeat(RequestStruct):
    API_KEY, API_VERSION, RESPONSE_TYPE = 12, 3, _HeartbeatResponse
    SCHEMA = Schema(
        ("group", String("utf-8")), ("generation_id", Int32), ("member_id", String("utf-8")), ("group_instance_id", String("utf-8"))
    )


class _CommitResponse(Response):
    API_KEY, API_VERSION, SCHEMA = 8, 7, OffsetCommitResponse_v3.SCHEMA


class _Commit(RequestStruct):
    API_KEY, API_VERSION, RESPONSE_TYPE = 8, 7, _CommitResponse
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", String("utf-8"))),
                ),
            ),
        ),
    )


class _StaticHeartbeat(Request[_Heartbeat]):
    API_KEY = 12

    def __init__(self, request: Any, instance: str) -> None:
        self._fields = (request._group, request._generation_id, request._member_id, instance)

    def build(self, request_struct_class: type[_Heartbeat]) -> _Heartbeat:
        return request_struct_class(*self._fields)


class _StaticCommit(Request[_Commit]):
    API_KEY = 8

    def __init__(self, request: Any, instance: str) -> None:
        # -1: the leader epoch is not known, as in aiokafka's own, older version of this request.
        topics = [(topic, [(number, offset, -1, text) for number, offset, text in rows]) for topic, rows in request._topics]
        self._fields = (request._consumer_group, request._consumer_group_generation_id, request._consumer_id, instance, topics)

    def build(self, request_struct_class: type[_Commit]) -> _Commit:
        return request_struct_class(*self._fields)


def instance_id(configured: str | None, role: str) -> str | None:
    """A role's name in its group; None is a dynamic member."""
    return configured and f"{configured}-{role}"


def be_static(coordinator: Any) -> None:
    """Heartbeats and commits of this member say who it is. When another member has its id, heartbeats raise SettingsError."""
    instance, send = coordinator._group_instance_id, coordinator._send_req
    if instance is None:
        return

    async def send_as_instance(request: Any) -> Any:
        if isinstance(request, HeartbeatRequest):
            request = _StaticHeartbeat(request, instance)
        elif isinstance(request, OffsetCommitRequest):
            request = _StaticCommit(request, instance)
        response = await send(request)
        if _FENCED_INSTANCE_ID in _error_codes(response):
            if isinstance(request, _StaticCommit):
                raise UnknownMemberIdError(coordinator.group_id)  # Faust takes it calmly, and the next heartbeat says the rest
            raise SettingsError(
                f"another member of group {coordinator.group_id} has joined as {instance!r} and has this worker's partitions; "
                "give each worker an EXPORT_KAFKA_GROUP_INSTANCE_ID of its own"
            )
        return response

    coordinator._send_req = send_as_instance


class Hearing:
    """When the group last said that this member is one. After a session timeout without, its partitions may be another's.

    A worker that was frozen finds its writes ready to go, and its heart stopped: whoever has the partitions by now has gone on from an
    earlier state, and an entry of ours on the changelog would come after his.
    """

    def __init__(self, coordinator: Any) -> None:
        self._seconds: float = coordinator._session_timeout_ms / 1000 * _SURE
        self._heard: float = -self._seconds
        send = coordinator._send_req

        async def heard(request: Any) -> Any:
            sent = time.monotonic()
            response = await send(request)
            if isinstance(request, _HEARD) and response.error_code in (0, _REBALANCING):
                self._heard = sent
            return response

        coordinator._send_req = heard

    def fresh(self) -> bool:
        return time.monotonic() - self._heard < self._seconds


def tell_errors(coordinator: Any, fatal: Callable[[BaseException], object]) -> None:
    """aiokafka keeps an error of the group until its consumer is asked for records, and stays out of the group. Faust never asks."""

    def tell(error: BaseException) -> None:
        if isinstance(error, KafkaError):
            error = ExportError(f"consumer group {coordinator.group_id}: {error}")
        fatal(error)

    async def tell_and_stay_out(error: BaseException) -> None:
        tell(error)
        await coordinator._closing

    def ended(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            tell(error)

    coordinator._push_error_to_user = tell_and_stay_out
    coordinator._coordination_task.add_done_callback(ended)


def _error_codes(response: Any) -> list[int]:
    if hasattr(response, "error_code"):
        return [response.error_code]
    return [code for _, partitions in getattr(response, "topics", ()) for _, code, *_ in partitions]
