"""What a worker counts, read as Prometheus reads it."""

from collections import defaultdict
from datetime import timedelta

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from connectors.memory import SystemClock
from connectors.step_functions import _meaning
from export_service.failures import (
    CallbackDenied,
    CallbackError,
    CallbackInvalid,
    CallbackRefused,
    CallbackThrottled,
)
from export_service.messages import CallbackAnswered, CallbackOutcome
from export_service.metrics import Metrics
from tests.unit.test_answerer import Bench as Answers
from tests.unit.test_answerer import Crash
from tests.unit.test_intake import Bench as Intake
from tests.unit.test_intake import message
from tests.unit.test_watch import Bench as Watch
from tests.waiting import until


def counted(text: str) -> dict[str, float]:
    """`name label-values` -> value, of what is not 0."""
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.value and not sample.name.endswith(("_created", "_bucket"))
    }


def of(metrics: Metrics) -> dict[str, float]:
    return counted(generate_latest(metrics.registry).decode())


async def test_an_answer_is_counted_once_with_its_latency_and_the_errors_before_it() -> None:
    bench = Answers()
    bench.fail(CallbackThrottled("ThrottlingException"), CallbackDenied("AccessDeniedException"), CallbackThrottled("Brandnew"))
    said = await bench.answer()
    await bench.answer()
    found = of(bench.metrics)
    assert said is not None and said.latency_ms is not None
    assert found.pop("export_callback_latency_seconds_sum") == pytest.approx(said.latency_ms / 1000)
    assert found == {
        "export_callbacks_total SENT": 1,
        "export_callback_latency_seconds_count": 1,
        "export_callback_errors_total ThrottlingException throttled": 1,
        "export_callback_errors_total other throttled": 1,
        "export_callback_errors_total AccessDeniedException denied": 1,
    }


async def test_orphans_and_duplicates_are_answers_without_a_latency() -> None:
    for errors, outcome in (
        ([CallbackRefused("TaskDoesNotExist")], "ORPHANED"),
        ([CallbackThrottled("ReadTimeoutError"), CallbackRefused("TaskDoesNotExist")], "DUPLICATE"),
        ([CallbackInvalid("InvalidOutput")] * 2, "ORPHANED"),
    ):
        bench = Answers()
        bench.fail(*errors)
        await bench.answer()
        found = of(bench.metrics)
        assert found[f"export_callbacks_total {outcome}"] == 1
        assert sum(value for name, value in found.items() if name.startswith("export_callback_errors")) == len(errors)
        assert not any("latency" in name for name in found)


async def test_an_answer_that_the_ledger_does_not_have_yet_is_not_counted_so_that_its_repeat_is() -> None:
    bench = Answers()

    async def die(_: CallbackAnswered) -> None:
        raise Crash

    record, bench.ledger.record_answer = bench.ledger.record_answer, die  # type: ignore[method-assign,assignment]
    with pytest.raises(Crash):
        await bench.answer()
    assert not of(bench.metrics)
    bench.ledger.record_answer = record  # type: ignore[method-assign]
    await bench.answer()
    assert of(bench.metrics)["export_callbacks_total SENT"] == 1


async def test_a_job_is_counted_once_however_often_its_message_comes_or_is_tried_again() -> None:
    bench = Intake()
    sent = [{"taskToken": "one"}, {"taskToken": "one"}, {"taskToken": "two"}, {"jobId": "550e8400-e29b-41d4-a716-446655440001"}]
    async with bench.running():
        for number, fields in enumerate(sent):
            bench.queue.send(message(**fields))
            await until(lambda n=number: len(bench.queue.deleted) == n + 1)  # type: ignore[misc]
    assert of(bench.metrics) == {"export_jobs_accepted_total true": 1, "export_jobs_accepted_total false": 1}


async def test_rejected_messages_are_counted_by_whether_somebody_was_told() -> None:
    bench = Intake()
    bench.callback.refuse = lambda token: (_ for _ in ()).throw(CallbackRefused("InvalidToken")) if token == "bad" else None
    async with bench.running():
        for fields in ({"taskToken": "good"}, {"taskToken": "bad"}, {}):
            bench.queue.send(message(files=[{"url": "ftp://h/f"}], **fields))
        await until(lambda: len(bench.queue.deleted) == 3)
    assert of(bench.metrics) == {f"export_requests_rejected_total {told}": 1 for told in ("true", "false", "no_token")} | {
        "export_callback_errors_total InvalidToken refused": 1,
        "export_dead_letters_total sqs": 3,
    }


async def test_heartbeats_are_counted_by_what_came_of_them() -> None:
    for error, outcome in ((None, "sent"), (CallbackRefused("InvalidToken"), "refused"), (CallbackThrottled("X"), "failed")):
        bench = Watch()
        await bench.open()
        bench.callback.refuse = lambda _, error=error: (_ for _ in ()).throw(error) if error else None  # type: ignore[misc]
        bench.see()
        await bench.pass_time(11)
        assert set(of(bench.metrics)) == {f"export_heartbeats_total {outcome}"}


def test_every_series_of_known_labels_is_there_from_the_start_and_no_code_of_aws_makes_a_new_one() -> None:
    metrics = Metrics()

    def series() -> dict[str, int]:
        found: dict[str, int] = defaultdict(int)
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
            found[family.name] += len(family.samples)
        return found

    before = series()
    codes = ["ThrottlingException", "TaskTimedOut", "AccessDeniedException", "InvalidOutput", "arn:aws:states:x AAAAKgAA-canary"]
    errors: list[CallbackError] = [_meaning(ClientError({"Error": {"Code": code}}, "SendTaskSuccess")) for code in codes]
    errors.append(_meaning(ReadTimeoutError(endpoint_url="http://h/?canary")))
    for error in errors:
        metrics.not_accepted(error)
    for outcome in CallbackOutcome:
        at = SystemClock().now() + timedelta(seconds=1)
        metrics.answered(CallbackAnswered(job_id="j-canary", attempt=1, outcome=outcome, answered_at=at, latency_ms=5))
    assert series() == before
    assert "canary" not in generate_latest(metrics.registry).decode()
