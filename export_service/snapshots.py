"""What people and receivers see of a job."""

from datetime import timedelta

from export_service.jobs import JobState
from export_service.messages import JobInfo, JobSnapshot


def of(job_id: str, state: JobState) -> JobSnapshot:
    job = state.job
    duration = None
    if state.completed_at and job:
        duration = max(0, round((state.completed_at - job.requested_at).total_seconds() * 1000))
    return JobSnapshot(
        job_id=job_id,
        attempt=state.attempt,
        version=state.offset + 1,
        export_id=job.export_id if job else None,
        user_id=job.user_id if job else None,
        status=state.status,
        total_tasks=state.total,
        completed_tasks=state.succeeded,
        failed_tasks=state.failed,
        cancelled_tasks=state.cancelled,
        bytes=state.bytes,
        requested_at=job.requested_at if job else None,
        updated_at=state.updated_at,
        completed_at=state.completed_at,
        duration_ms=duration,
        destination=job.destination if job else None,
        report_uri=report_uri(job) if job and state.completed_at and state.total is not None else None,
        error=state.error,
        cause=state.cause,
        has_task_token=job.has_task_token if job else False,
        heartbeat_seconds=job.heartbeat_seconds if job else None,
        deadline_at=job.requested_at + timedelta(seconds=job.deadline_seconds) if job and job.deadline_seconds else None,
        first_offset=_origin(state),
    )


def _origin(state: JobState) -> int | None:
    """None: an earlier version began a later list, and kept no account of what was before it."""
    return state.origin if state.origin is not None or state.plan > 1 else state.first_offset


def report_name(job: JobInfo) -> str:
    return f"_report.{job.report_format}"


def report_uri(job: JobInfo) -> str:
    return job.destination.rstrip("/") + "/" + report_name(job)
