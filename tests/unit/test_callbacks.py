"""Payloads of the callback: the guide's fields, AWS's limits."""

import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from export_service.callbacks import MAX_CAUSE, Failure, Success, answer, cut, failure
from export_service.messages import JobSnapshot, JobStatus

AT = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
ID = "550e8400-e29b-41d4-a716-446655440000"


def job(status: JobStatus, **fields: object) -> JobSnapshot:
    base: dict[str, object] = {
        "job_id": ID, "attempt": 1, "version": 3, "export_id": "export-12345", "user_id": "user-67890", "status": status,
        "total_tasks": 10, "completed_tasks": 10, "updated_at": AT, "completed_at": AT, "duration_ms": 45000,
    }  # fmt: skip
    return JobSnapshot.model_validate(base | fields)


def test_success_has_the_guides_fields() -> None:
    said = answer(job(JobStatus.COMPLETED), "json", None)
    assert isinstance(said, Success)
    assert json.loads(said.output) == {
        "jobId": ID, "exportId": "export-12345", "userId": "user-67890", "status": "COMPLETED", "totalTasks": 10,
        "completedTasks": 10, "failedTasks": 0, "completedAt": "2025-01-15T10:30:00.000Z", "durationMs": 45000,
    }  # fmt: skip


def failed_job(cause: str = "Job completed with 3 failed tasks out of 10 total") -> JobSnapshot:
    counts = {"completed_tasks": 7, "failed_tasks": 3, "error": "JobCompletedWithFailures", "cause": cause}
    return job(JobStatus.COMPLETED_WITH_FAILURES, **counts)


def test_failure_has_the_guides_fields_and_the_report() -> None:
    said = answer(failed_job(), "json", "s3://b/_report.jsonl")
    assert isinstance(said, Failure)
    assert said.error == "JobCompletedWithFailures"
    assert json.loads(said.cause) == {
        "error": "JobCompletedWithFailures", "cause": "Job completed with 3 failed tasks out of 10 total", "jobId": ID,
        "exportId": "export-12345", "totalTasks": 10, "completedTasks": 7, "failedTasks": 3, "reportUri": "s3://b/_report.jsonl",
    }  # fmt: skip


def test_failure_as_text_is_the_sentence_alone() -> None:
    said = answer(failed_job(), "text", None)
    assert said == Failure("JobCompletedWithFailures", "Job completed with 3 failed tasks out of 10 total")


@given(st.text(st.sampled_from('a"\\\né漢😀'), max_size=60_000))
def test_a_long_cause_is_cut_to_the_limit_and_stays_json(cause: str) -> None:
    said = failure("E" * 300, cause * 2, "json", {"jobId": ID})
    assert len(said.cause.encode()) <= MAX_CAUSE
    assert len(said.error) == 256
    assert (cause * 2).startswith(json.loads(said.cause)["cause"])


@given(st.text(max_size=50), st.integers(0, 60))
def test_cut_never_splits_a_character(text: str, limit: int) -> None:
    assert len(cut(text, limit).encode()) <= limit
    assert text.startswith(cut(text, limit))
