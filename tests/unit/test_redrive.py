"""What of a failed job would run again, why it failed, and the request of its new attempt."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from export_service.failures import ExportError
from export_service.jobs import JobState, Run
from export_service.manifests import Entry
from export_service.messages import ExportRequested, FileSpec, JobInfo, JobStatus, ManifestRef, Outcome, TaskResult, TaskResults
from export_service.redrive import Changes, FailedJob, Failure, again, failed_job
from export_service.sealing import new_key, seal, unseal
from export_service.shards import Shard

AT = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
KEY = new_key()
INFO = JobInfo(job_id="j", export_id="e", user_id="u", requested_at=AT, destination="d", has_task_token=True, tolerated_failures=2)
SEALED = seal("https://h/a?sig=old", KEY)
FILES = (FileSpec(url=SEALED[0], query=SEALED[1], name="a"), FileSpec(url="https://h/b", name="b"))
REQUEST = ExportRequested(job=INFO, files=FILES, message_id="m", done={0: "AQ=="}, plan_digest="p")


def ended(status: JobStatus = JobStatus.COMPLETED_WITH_FAILURES, **fields: object) -> JobState:
    state = {"status": status, "job": INFO, "total": 4, "tallies": ((1, 2, 1, 10),), "first_offset": 0, "updated_at": AT}
    return JobState.model_validate(state | {"error": "JobCompletedWithFailures"} | fields)


def job(state: JobState | None, request: ExportRequested | None = REQUEST) -> FailedJob:
    # Task 0 has succeeded, 1 and 2 have failed, 3 was cancelled.
    return failed_job("j", state, request, lambda _run, _number: Shard(0b1, 0b110, 0b1000), [(1, AT)])


def results(attempt: int, *outcomes: tuple[int, Outcome, str]) -> TaskResults:
    found = tuple(
        TaskResult(index=n, outcome=outcome, name="n", url=f"https://h{n}:8/x", error=error) for n, outcome, error in outcomes
    )
    return TaskResults(job_id="j", attempt=attempt, results=found)


def test_failures_are_counted_by_class_and_host_as_the_tables_have_them() -> None:
    found = job(ended(attempt=2, runs=(Run(1, -1, 5), Run(2, 6))))
    found.see(results(1, (1, Outcome.FAILED, "Timeout")))
    found.see(results(2, (0, Outcome.FAILED, "HttpNotFound"), (1, Outcome.FAILED, "HttpNotFound"), (3, Outcome.CANCELLED, "")))
    assert found.why() == {Failure("HttpNotFound", "h1:8"): 1, Failure("unknown", "retention has removed their outcomes"): 1}
    assert (found.as_object()["run"], found.as_object()["cancelled"]) == (3, 1)
    assert "3 of 4 run" in found.as_text()


@pytest.mark.parametrize(
    ("error", "host", "has"),
    [
        (None, None, True),
        ("HttpNotFound", None, True),
        ("Timeout", None, False),
        ("JobCompletedWithFailures", None, True),
        (None, "h1", True),
        (None, "h1:8", True),
        ("HttpNotFound", "h2", False),
        ("JobCompletedWithFailures", "h1", False),
    ],
)
def test_jobs_are_chosen_by_the_failures_that_they_have(error: str | None, host: str | None, has: bool) -> None:
    found = job(ended())
    found.see(results(1, (1, Outcome.FAILED, "HttpNotFound")))
    assert found.has(error, host) is has


@pytest.mark.parametrize(
    ("state", "request_", "says"),
    [
        (None, REQUEST, "is not known"),
        (ended(JobStatus.RUNNING), REQUEST, "still runs"),
        (ended(JobStatus.COMPLETED), REQUEST, "the 2 failures were tolerated"),
        (ended(JobStatus.COMPLETED, tallies=((4, 0, 0, 1),)), REQUEST, "nothing has to run again"),
        (ended(), None, "retention has removed its request"),
        (ended(), REQUEST, None),
        (ended(JobStatus.CANCELLED), REQUEST, None),
    ],
)
def test_what_cannot_run_again_says_why(state: JobState | None, request_: ExportRequested | None, says: str | None) -> None:
    refusal = job(state, request_).refusal()
    assert (refusal is None) if says is None else says in (refusal or "")


def test_a_job_that_was_asked_for_since_its_end_is_about_to_run() -> None:
    later = AT + timedelta(seconds=1)
    for asked, says in (([], "is not in the ledger"), ([(1, AT), (2, later)], "was asked for again"), ([(1, AT), (2, AT)], None)):
        refusal = replace(job(ended()), asked=asked).refusal()
        assert (refusal is None) if says is None else says in (refusal or "")


def test_a_job_without_a_list_begins_anew() -> None:
    assert "all of it runs" in job(ended(JobStatus.FAILED, total=None, error="ExportPlanFailed")).as_text()


def test_the_new_attempt_has_nobody_who_waits_and_its_own_limits() -> None:
    now = datetime(2025, 1, 16, tzinfo=UTC)
    new = again(REQUEST, 3, now, KEY, Changes(tolerated_failures=0, deadline_seconds=60))
    assert (new.done, new.plan_digest, new.message_id, new.files) == (None, None, None, FILES)
    same = {"attempt": 3, "requested_at": now, "has_task_token": False, "tolerated_failures": 0, "deadline_seconds": 60}
    assert new.job == INFO.model_copy(update=same)
    assert again(REQUEST, 3, now, KEY, Changes()).job.tolerated_failures == 2


def test_new_signatures_are_sealed_and_of_a_list_some_will_do() -> None:
    new = again(REQUEST, 2, AT, KEY, Changes(files=[Entry(url="https://h/a?sig=canary")]))
    assert "canary" not in new.to_bytes().decode()
    a, b = new.files or ()
    assert (unseal(a.url, a.query, KEY), b) == ("https://h/a?sig=canary", FILES[1])
    with pytest.raises(ExportError, match="'c' is no file of job j"):
        again(REQUEST, 2, AT, KEY, Changes(files=[Entry(url="https://h/c")]))
    with pytest.raises(ExportError, match="no key in the ledger"):
        again(REQUEST, 2, AT, None, Changes(files=[Entry(url="https://h/a?sig=canary")]))
    with pytest.raises(ExportError, match="entry 0: ftp://h/a"):
        again(REQUEST, 2, AT, KEY, Changes(files=[Entry(url="ftp://h/a?x")]))


def test_a_manifest_is_replaced_by_another_or_by_a_list() -> None:
    asked = ExportRequested(job=INFO, manifest=ManifestRef(url="https://h/list.csv", format="csv"))
    new = again(asked, 2, AT, KEY, Changes(manifest="https://h/new.csv?sig=canary")).manifest
    assert new is not None
    assert (new.url, new.format, unseal(new.url, new.query, KEY)) == ("https://h/new.csv", "csv", "https://h/new.csv?sig=canary")
    listed = again(asked, 2, AT, KEY, Changes(files=[Entry(url="https://h/z"), Entry(url="https://h/a", name="n")]))
    assert listed.manifest is None
    assert [file.name for file in listed.files or ()] == ["z", "n"]
