"""What is said of a job, from records made by hand: why tasks miss, what to do next, what a replay would do, what a file keeps."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agents.refold import Refold
from export_service.cli.explain import as_text
from export_service.failures import ExportError
from export_service.history import actions, file
from export_service.history.compare import recorded_ends
from export_service.history.explanation import Explanation, explain
from export_service.history.moves import Counted, grouped
from export_service.history.records import JobRecords, Reading, begun
from export_service.history.selection import Selection, parse_offsets
from export_service.jobs import JobState
from export_service.messages import (
    AttemptOpened,
    CallbackAnswered,
    CallbackOutcome,
    ExportRequested,
    FileSpec,
    JobAccepted,
    JobCancelled,
    JobCompleted,
    JobInfo,
    JobPlanned,
    JobSnapshot,
    JobStatus,
    ManifestRef,
    Outcome,
    PlanFailed,
    Task,
    TaskBatch,
    TaskResult,
    TaskResults,
    from_millis,
)
from export_service.ports import Attempt
from export_service.settings import load
from export_service.shards import Shard
from export_service.snapshots import of
from export_service.verify.evidence import Bounds, Raw
from streams.topics import topics

START = 1_700_000_000_000
NOW = from_millis(START + 3_600_000)
JOB = JobInfo(
    job_id="j",
    export_id="e",
    user_id="u",
    requested_at=from_millis(START),
    destination="s3://bucket/j/",
    has_task_token=True,
)
REQUEST = ExportRequested(job=JOB, manifest=ManifestRef(url="https://h/m.jsonl", query="sealed", format="jsonl"))
S, F = Outcome.SUCCEEDED, Outcome.FAILED


def results(outcomes: dict[int, Outcome], attempt: int = 1) -> TaskResults:
    return TaskResults(
        job_id="j",
        attempt=attempt,
        results=tuple(
            TaskResult(
                index=index,
                outcome=outcome,
                name=f"n{index}",
                url=f"https://h/{index}",
                bytes=7,
                error="HttpNotFound" if outcome is F else None,
                message="404" if outcome is F else None,
            )
            for index, outcome in outcomes.items()
        ),
    )


def batch(*indices: int) -> TaskBatch:
    tasks = tuple(Task(index=index, url=f"https://h/{index}", name=f"n{index}", query="sealed") for index in indices)
    return TaskBatch(job_id="j", attempt=1, destination="s3://bucket/j/", tasks=tasks)


def records(committed: dict[str, int] | None = None, **values: Sequence[Any]) -> JobRecords:
    """Partition 0 of each topic, a second between records; `committed` up to where its reader is, else to the end."""
    found = {
        topic: tuple(
            Raw(topic, 0, offset, START + 1000 * (offset + 1), b"j", value.to_bytes()) for offset, value in enumerate(each)
        )
        for topic, each in values.items()
    }
    bounds = {(topic, 0): Bounds(0, len(each), (committed or {}).get(topic, len(each))) for topic, each in found.items()}
    return JobRecords("j", found, bounds, (Reading("results", 3, 100, 1000, "all of it"),))


async def said(job: JobRecords, *, now: bool = True) -> Explanation:
    refold = Refold(topics(load()))
    moves = await refold.all(job.of("results"))
    return explain(job, moves, lambda run, number: refold.shard("j", run, number), NOW, now=now)


PLANNED = (JobAccepted(job=JOB), JobPlanned(job=JOB, total_tasks=6))


async def test_why_each_task_misses() -> None:
    job = records(
        {"tasks": 3},
        requests=[REQUEST],
        results=[*PLANNED, results({0: S})],
        tasks=[batch(0), batch(1), batch(2), batch(3), batch(4)],
    )
    found = await said(job)
    assert [(gap.kind, gap.number, gap.tasks) for gap in found.gaps] == [
        ("lost", 2, "1-2"),
        ("handed out", 2, "3-4"),
        ("not handed out", 1, "5"),
    ]
    assert "tasks:0:1 is committed, and no outcome is on results" in found.gaps[0].why
    assert "tasks:0:3, and the download workers have finished up to 3: it is next" in found.gaps[1].why
    assert found.next[0] == "export-service verify j"
    then = await said(job, now=False)
    assert [(gap.kind, gap.tasks) for gap in then.gaps] == [("handed out", "1-4"), ("not handed out", "5")]
    assert then.next[0] == "export-service explain j"


async def test_a_batch_of_an_earlier_run_is_none_of_this() -> None:
    opened = AttemptOpened(request=REQUEST.model_copy(update={"job": JOB.model_copy(update={"attempt": 2})}))
    ended = results({0: S, 1: S, 2: S, 3: F, 4: F, 5: F})
    job = records(requests=[REQUEST], results=[*PLANNED, ended, opened], tasks=[batch(*range(6))])
    found = await said(job)
    assert [(gap.kind, gap.tasks) for gap in found.gaps] == [("not handed out", "3-5")]
    assert found.next[0] == "export-service worker --role download"
    assert "attempt 2 begins a run of what has not succeeded" in [each.what for each in found.timeline]
    assert not found.failed, "they are being tried again"


ENDED = (*PLANNED, results({0: S, 1: F, 2: S}), results({1: F, 3: S, 4: F, 5: S}), results({5: S}))


def answered(outcome: CallbackOutcome) -> CallbackAnswered:
    return CallbackAnswered(job_id="j", attempt=1, call="SendTaskFailure", outcome=outcome, error="TaskTimedOut", answered_at=NOW)


async def completed() -> JobCompleted:
    refold = Refold(topics(load()))
    await refold.all(records(results=ENDED).of("results"))
    return refold.completions["j", 1]


@pytest.mark.parametrize(
    ("more", "committed", "command"),
    [
        ({}, {}, "export-service replay j --mode re-emit --dry-run"),
        ({"completions": 1}, {"completions": 0}, "export-service worker --role callback"),
        ({"completions": 1}, {}, "export-service replay j --mode re-emit --dry-run"),
        ({"callbacks": CallbackOutcome.SENT}, {}, "export-service redrive j"),
        ({"callbacks": CallbackOutcome.ORPHANED}, {}, "export-service redrive j"),
    ],
)
async def test_what_to_do_next_with_a_job_that_has_ended(more: dict[str, Any], committed: dict[str, int], command: str) -> None:
    values: dict[str, Sequence[Any]] = {"requests": [REQUEST], "results": ENDED}
    if "completions" in more:
        values["completions"] = [await completed()]
    if "callbacks" in more:
        values["callbacks"] = [answered(more["callbacks"])]
    found = await said(records(committed, **values))
    assert found.next[0] == command
    assert found.state is not None
    assert found.state.status is JobStatus.COMPLETED_WITH_FAILURES
    assert [(each.error, each.number, each.first) for each in found.failed] == [("HttpNotFound", 2, "task 1, n1: 404")]
    assert dict(found.ignored) == {"came after the end": 1}
    assert max(map(len, as_text(found).splitlines())) <= 80
    assert json.loads(json.dumps(found.as_json()))["next"]["command"] == command


@pytest.mark.parametrize(
    ("events", "committed", "command"),
    [
        ((), 0, "export-service worker --role plan"),
        ((JobAccepted(job=JOB),), 1, "export-service explain j"),
        ((PlanFailed(job=JOB, cause="no such list"),), 1, "export-service replay j --mode re-emit --dry-run"),
        ((*PLANNED, results({0: S}), JobCancelled(job_id="j", cause="c")), 1, "export-service replay j --mode re-emit --dry-run"),
    ],
)
async def test_what_to_do_next_with_others(events: Sequence[Any], committed: int, command: str) -> None:
    found = await said(records({"requests": committed}, requests=[REQUEST], results=events))
    assert found.next[0] == command
    assert as_text(found)


async def test_a_job_of_which_nothing_is_there_is_not_known() -> None:
    with pytest.raises(ExportError, match="job j is on no topic"):
        await said(records())


def test_counts_in_few_lines_add_up() -> None:
    raws = [Raw("results", 0, offset, START, b"j", b"") for offset in range(100)]
    single = [Counted(raw, raw, 1, 1, 0, 0, 5) for raw in raws]
    few = grouped(single, 12)
    assert len(few) <= 12
    assert sum(each.succeeded for each in few) == sum(each.records for each in few) == 100
    assert (few[0].place, few[-1].last.offset) == ("results:0:0-8", 99)
    assert grouped(single[:12], 12) == single[:12]


async def _folded(events: Sequence[Any]) -> tuple[JobState, dict[tuple[int, int], Shard]]:
    refold = Refold(topics(load()))
    await refold.all(records(results=events).of("results"))
    state = refold.state("j")
    assert state is not None
    return state, dict(refold.shards("j", state))


async def test_what_is_not_what_the_events_say_is_rebuilt() -> None:
    state, shards = await _folded(ENDED)
    entry = Raw("jobs-changelog", 0, 3, START, b"j", state.to_bytes())
    shard = Raw("shards-changelog", 0, 3, START, b"j/0", shards[1, 0].to_bytes())
    right = {b"j": entry, b"j/0": shard}
    item = of("j", state)

    def rebuild(changelog: dict[bytes, Raw], item: JobSnapshot | None, *, rebuilt: bool = False) -> list[tuple[str, Any, Any]]:
        action = actions.rebuild("j", state, shards, changelog, item, rebuilt=rebuilt, end=100)
        assert action.do is bool(action.differences)
        return [(each.field, each.found, each.fold) for each in action.differences]

    assert rebuild(right, item) == []
    assert rebuild({b"j/0": shard}, item) == [("entry", None, "COMPLETED_WITH_FAILURES")]
    assert rebuild({b"j": entry}, item) == [("shard 1.0", (0, 0, 0, 0), (4, 2, 0, 28))]
    other = entry._replace(value=state.but(error="Other").to_bytes())
    assert rebuild(right | {b"j": other}, item) == [("error", "Other", "JobCompletedWithFailures")]
    assert rebuild(right, None) == [("item", None, "COMPLETED_WITH_FAILURES")]
    assert rebuild(right, item.but(failed_tasks=0)) == [("failedTasks", 0, 2)]
    assert rebuild(right, item.but(version=1)) == [("version", 1, state.offset + 1)]
    # After a replay has put it back, entry and item are of its record.
    later = entry._replace(value=state.but(offset=99).to_bytes())
    assert rebuild(right | {b"j": later}, item.but(version=100), rebuilt=True) == []
    assert rebuild(right | {b"j": later}, item.but(version=100)) == [("offset", 99, state.offset)]
    moved = actions.rebuild("j", state, shards, {b"j": later}, item, rebuilt=False, end=99)
    assert (moved.do, "has moved since" in moved.why) == (False, True), "the changelog was read after the events"
    assert rebuild(right | {b"j/0": shard._replace(value=b"\x02")}, item)[0][0] == "shard 1.0"


async def test_whose_answer_is_given_again() -> None:
    ended, _ = await _folded(ENDED)
    running, _ = await _folded(PLANNED)
    waits = Attempt("j", 1, "digest", token="t")
    assert actions.re_emit("j", ended, waits, None).do
    for state, attempt, place, why in (
        (running, waits, None, "has not ended"),
        (ended, None, None, "is not in the ledger"),
        (ended, Attempt("j", 1, "digest"), None, "nobody waits"),
        (ended, Attempt("j", 1, "digest", token="t", answer=answered(CallbackOutcome.ORPHANED)), None, "ORPHANED (TaskTimedOut)"),
        (ended, waits, "completions:0:1", "waits at completions:0:1"),
    ):
        action = actions.re_emit("j", state, attempt, place)
        assert not action.do
        assert why in action.why


def test_a_selection_survives_the_topic_that_it_is_noted_on() -> None:
    whole = Selection(("a", "b"), "u", NOW, NOW + timedelta(hours=1), (parse_offsets("0:3-9"),), "FAILED")
    assert Selection.from_json(json.loads(json.dumps(whole.as_json()))) == whole
    assert Selection.from_json(Selection().as_json()) == Selection()
    for wrong in ("0:9-3", "0:3", "a:1-2", "0:1-2-3"):
        with pytest.raises(ValueError, match="is no range"):
            parse_offsets(wrong)


def test_a_file_has_no_secrets_and_of_compacted_topics_the_newest() -> None:
    files = (FileSpec(url="https://h/1", query="sealed", name="n1"),)
    again = REQUEST.model_copy(update={"manifest": None, "files": files})
    token = "AAAAKgAAAAIAAAAA" + "x" * 40
    leaky = JOB.model_copy(update={"metadata": {"taskToken": token, "link": "https://h/x?signature=canary"}})
    job = records(
        requests=[REQUEST, again],
        results=[JobAccepted(job=leaky)],
        tasks=[batch(0, 1)],
        snapshots=[
            JobSnapshot(job_id="j", attempt=1, version=version, status=JobStatus.RUNNING, updated_at=NOW) for version in (1, 2)
        ],
    )
    lines = list(file.lines(job, datetime.now(UTC)))
    text = "".join(lines)
    assert not any(secret in text for secret in ("sealed", "canary", token))
    assert len(lines) == 1 + 2 + 1 + 1 + 1
    header = json.loads(lines[0])
    assert (header["history"], header["jobId"]) == (1, "j")
    kept = [json.loads(line) for line in lines[1:]]
    assert [each["value"]["version"] for each in kept if each["topic"] == "snapshots"] == [2]


@pytest.mark.parametrize(
    "said",
    [{"job": {"requestedAt": "soon"}}, {"request": "x"}, {"job": [1]}, {"attempt": "two", "requestedAt": "2025-01-15T10:30:00Z"}],
)
def test_a_record_that_no_step_could_read_says_nothing_of_where_a_job_begins(said: dict[str, Any]) -> None:
    assert begun(Raw("results", 0, 0, START, b"j", json.dumps(said).encode())) is None
    assert set(recorded_ends([Raw("completions", 0, 0, START, b"j", json.dumps(said).encode())])) <= {("None", 1)}
