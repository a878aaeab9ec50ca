"""What people see of a job."""

from datetime import UTC, datetime, timedelta

from export_service import snapshots
from export_service.jobs import JobState
from export_service.messages import JobInfo, JobSnapshot, JobStatus

ASKED = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
ENDED = ASKED + timedelta(seconds=90, milliseconds=125)
JOB = JobInfo(
    job_id="j",
    attempt=2,
    export_id="e",
    user_id="u",
    requested_at=ASKED,
    destination="s3://bucket/BOX/",
    report_format="csv",
    has_task_token=True,
    heartbeat_seconds=60,
    deadline_seconds=3600,
)
STATE = JobState(
    attempt=2,
    status=JobStatus.COMPLETED_WITH_FAILURES,
    job=JOB,
    total=15,
    tallies=((1, 2, 3, 100), (4, 5, 0, 11)),
    first_offset=3,
    offset=41,
    updated_at=ENDED,
    completed_at=ENDED,
    error="E",
    cause="c",
)


def test_of_a_job_that_has_ended_everything_is_shown() -> None:
    assert snapshots.of("j", STATE) == JobSnapshot(
        job_id="j",
        attempt=2,
        version=42,
        export_id="e",
        user_id="u",
        status=JobStatus.COMPLETED_WITH_FAILURES,
        total_tasks=15,
        completed_tasks=5,
        failed_tasks=7,
        cancelled_tasks=3,
        bytes=111,
        requested_at=ASKED,
        updated_at=ENDED,
        completed_at=ENDED,
        duration_ms=90_125,
        destination="s3://bucket/BOX/",
        report_uri="s3://bucket/BOX/_report.csv",
        error="E",
        cause="c",
        has_task_token=True,
        heartbeat_seconds=60,
        first_offset=3,
        deadline_at=ASKED + timedelta(hours=1),
    )


def test_of_a_job_whose_request_is_not_known_yet_nothing_is_made_up() -> None:
    unknown = STATE.model_copy(update={"job": None, "total": None, "completed_at": None})
    shown = snapshots.of("j", unknown)
    assert shown == JobSnapshot(
        job_id="j",
        attempt=2,
        version=42,
        status=JobStatus.COMPLETED_WITH_FAILURES,
        completed_tasks=5,
        failed_tasks=7,
        cancelled_tasks=3,
        bytes=111,
        updated_at=ENDED,
        error="E",
        cause="c",
        has_task_token=False,
        first_offset=3,
    )


def test_there_is_a_report_only_of_a_job_that_has_ended_and_had_a_list() -> None:
    assert snapshots.of("j", STATE.model_copy(update={"completed_at": None})).report_uri is None
    assert snapshots.of("j", STATE.model_copy(update={"total": None})).report_uri is None
    assert snapshots.of("j", STATE.model_copy(update={"total": 0})).report_uri == "s3://bucket/BOX/_report.csv"


def test_a_job_without_a_deadline_has_none_and_clocks_that_differ_make_no_negative_duration() -> None:
    early = STATE.model_copy(
        update={"job": JOB.model_copy(update={"deadline_seconds": None, "requested_at": ENDED + timedelta(1)})}
    )
    shown = snapshots.of("j", early)
    assert (shown.deadline_at, shown.duration_ms) == (None, 0)


def test_where_the_history_of_a_job_begins_whatever_list_it_has() -> None:
    again = STATE.model_copy(update={"plan": 2})
    assert snapshots.of("j", again.model_copy(update={"origin": 1})).first_offset == 1
    assert snapshots.of("j", again).first_offset is None, "an earlier version did not keep it"
