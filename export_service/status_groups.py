"""What one may ask for jobs by."""

from export_service.messages import JobStatus

GROUPS = {
    "open": (JobStatus.PENDING, JobStatus.RUNNING),
    "unsuccessful": (JobStatus.COMPLETED_WITH_FAILURES, JobStatus.FAILED, JobStatus.CANCELLED),
} | {status.value: (status,) for status in JobStatus}
"""Its name -> the statuses that it means."""
