"""What Step Functions is told when a job ends: payloads and their limits.

Limits (AWS API reference, SendTaskSuccess and SendTaskFailure): output 262,144 bytes, error 256, cause 32,768 characters of UTF-8.
Sizes here are bytes, which is the stricter reading.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from export_service.messages import JobSnapshot, JobStatus, iso_millis

MAX_OUTPUT, MAX_ERROR, MAX_CAUSE = 262_144, 256, 32_768


@dataclass(frozen=True)
class Success:
    output: str
    """JSON."""


@dataclass(frozen=True)
class Failure:
    error: str
    cause: str


def answer(job: JobSnapshot, cause_form: Literal["json", "text"], report_uri: str | None) -> Success | Failure:
    """The one answer of a finished job. `report_uri` is None where no report could be written."""
    if job.status is JobStatus.COMPLETED:
        assert job.completed_at is not None
        output: dict[str, Any] = {
            "jobId": job.job_id,
            "exportId": job.export_id,
            "userId": job.user_id,
            "status": job.status.value,
            "totalTasks": job.total_tasks,
            "completedTasks": job.completed_tasks,
            "failedTasks": job.failed_tasks,
            "completedAt": iso_millis(job.completed_at),
            "durationMs": job.duration_ms,
        }
        if report_uri:
            output["reportUri"] = report_uri
        return Success(json.dumps(output, ensure_ascii=False))
    details: dict[str, Any] = {
        "jobId": job.job_id,
        "exportId": job.export_id,
        "totalTasks": job.total_tasks,
        "completedTasks": job.completed_tasks,
        "failedTasks": job.failed_tasks,
    }
    if report_uri:
        details["reportUri"] = report_uri
    return failure(job.error or "ExportFailed", job.cause or "", cause_form, details)


def failure(error: str, cause: str, cause_form: Literal["json", "text"], details: dict[str, Any]) -> Failure:
    """A failure of any kind in the one shape that callers parse: cause is JSON `{error, cause, **details}`, or the sentence alone."""
    error = cut(error, MAX_ERROR)
    if cause_form == "text":
        return Failure(error, cut(cause, MAX_CAUSE))
    whole = _as_json(error, cause, details)
    # A character may take six bytes as \\u escape, so shorten the sentence until the JSON around it fits: never cut the JSON.
    while len(whole.encode()) > MAX_CAUSE and cause:
        cause = cut(cause, len(cause.encode()) * 3 // 4)
        whole = _as_json(error, cause, details)
    return Failure(error, whole)


def cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, cut between characters."""
    return text.encode()[:limit].decode(errors="ignore")


def _as_json(error: str, cause: str, details: dict[str, Any]) -> str:
    return json.dumps({"error": error, "cause": cause, **details}, ensure_ascii=False)
