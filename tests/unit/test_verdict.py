"""The oracle finds each kind of defect, says where it is, and blames no other invariant for it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from export_service.cli.verify import as_object, as_text
from export_service.shards import Shard
from export_service.verify.evidence import Bounds, Destination, Evidence, Sample, Sent, Stored
from export_service.verify.history import shard
from export_service.verify.verdict import CHECKS, judge
from tests.unit.healthy import RESOURCE, TOKEN, Healthy, sha256
from tests.unit.healthy import shard as shard_bytes

Plant = Callable[[Healthy], None]


def violations(evidence: Evidence) -> dict[str, tuple[str, ...]]:
    return {each.invariant: each.violations for each in judge(evidence) if each.violations}


def test_a_healthy_system_is_ok_and_everything_is_checked() -> None:
    verdicts = judge(Healthy().evidence())
    assert [(each.invariant, each.summary, each.gaps) for each in verdicts] == [(name, "OK", ()) for name in CHECKS]


def test_an_empty_system_breaks_nothing() -> None:
    assert not violations(Evidence(settled=True))
    assert not violations(Evidence())


def _completion(job: str, **changes: Any) -> Plant:
    def plant(system: Healthy) -> None:
        for body in system.bodies("completions", job):
            body["snapshot"] |= changes

    return plant


def _files(job: str, **files: Stored | None) -> Plant:
    """Changed, or gone (None), or one more."""

    def plant(system: Healthy) -> None:
        place = f"file:///out/{job}/"
        old = system.known.destinations[place]
        now = {name: each for name, each in {**old.files, **files}.items() if each is not None}
        system.know(destinations={**system.known.destinations, place: replace(old, files=now)})

    return plant


def _lost_message(system: Healthy) -> None:
    system.know(sent=(*system.known.sent, Sent("never-seen")))


def _lost_unreadable_message(system: Healthy) -> None:
    system.know(sent=(*system.known.sent, Sent(None, "message-7")))


def _never_ends(system: Healthy) -> None:
    """A request whose tasks nobody could read: the record is a dead letter, which satisfies I6 alone."""
    info = {"jobId": "endless", "attempt": 1, "destination": "file:///out/good/", "hasTaskToken": False}
    system.put("requests", "endless", {"job": info})
    system.put("results", "endless", {"type": "JobPlanned", "job": info, "totalTasks": 1})
    task = {"index": 0, "name": "good-0.txt", "url": "http://h/good/0"}
    offset = system.put("tasks", "endless:0", {"jobId": "endless", "attempt": 1, "tasks": [task]})
    system.put("dead-letters", "endless:0", {"source": f"export.tasks:0:{offset}", "jobId": "endless"})
    system.put("jobs-changelog", "endless", {"attempt": 1, "status": "RUNNING", "total": 1, "tallies": []})


def _ends_twice(system: Healthy) -> None:
    (first,) = system.bodies("completions", "good")
    system.put("completions", "good", first | {"snapshot": first["snapshot"] | {"status": "CANCELLED"}})


def _still_waits(system: Healthy) -> None:
    system.know(executions=tuple(replace(each, status="RUNNING") for each in system.known.executions[:1]))


def _answered_twice(system: Healthy) -> None:
    system.put("callbacks", "good", system.bodies("callbacks", "good")[0] | {"answeredAt": "2026-01-01T00:00:09.000Z"})


def _wrong_call(system: Healthy) -> None:
    system.bodies("callbacks", "partial")[0]["call"] = "SendTaskSuccess"


def _told(job: str, event: dict[str, Any], *, instead: bool = True) -> Plant:
    def plant(system: Healthy) -> None:
        system.know(
            executions=tuple(
                replace(each, events=(each.events[:1] if instead else each.events) + (event,)) if each.job_id == job else each
                for each in system.known.executions
            )
        )

    return plant


def _said_success(**told: Any) -> dict[str, Any]:
    return {"taskSucceededEventDetails": RESOURCE | {"output": json.dumps({"status": "COMPLETED", "totalTasks": 3} | told)}}


def _goes_back(system: Healthy) -> None:
    first, last = system.bodies("snapshots", "good")
    system.put("snapshots", "good", first | {"version": first["version"] + 1, "completedTasks": 0})
    assert first["version"] + 1 < last["version"]


def _new_total(system: Healthy) -> None:
    first, last = system.bodies("snapshots", "good")
    system.put("snapshots", "good", first | {"version": last["version"] - 1, "completedTasks": 2, "totalTasks": 7})


def _two_files_one_index(system: Healthy) -> None:
    system.bodies("tasks", "good")[-1]["tasks"][0]["name"] = "good-0.txt"
    # The same file, so that only the numbering is wrong.
    system.know(sources={**system.known.sources, "http://h/good/1": sha256("content of good-0.txt")})
    _files("good", **{"good-0.txt": Stored(1, sha256("content of good-0.txt"))})(system)


def _copied_by_s3(system: Healthy) -> None:
    """The files of `quiet`, without a hash."""
    system.know(sources={url: digest for url, digest in system.known.sources.items() if "/quiet/" not in url})
    for body in system.bodies("results", "quiet"):
        for result in body.get("results", ()):
            result.pop("sha256", None)


def _copied_wrongly(system: Healthy) -> None:
    _copied_by_s3(system)
    _files("quiet", **{"quiet-0.txt": Stored(4, sha256("cont"))})(system)


def test_files_without_a_hash_are_compared_by_size_and_that_is_said() -> None:
    system = Healthy()
    _copied_by_s3(system)
    assert not violations(system.evidence())
    gaps = [gap for each in judge(system.evidence()) for gap in each.gaps]
    assert any("2 files that S3 copied" in gap for gap in gaps)


def _orphan_upload(system: Healthy) -> None:
    place = "file:///out/good/"
    here = replace(system.known.destinations[place], uploads=("good-1.txt",))
    system.know(destinations={**system.known.destinations, place: here})


def _changelog(**changes: Any) -> Plant:
    def plant(system: Healthy) -> None:
        (state,) = system.bodies("jobs-changelog", "partial")
        system.put("jobs-changelog", "partial", state | changes)

    return plant


def _lost(topic: str, key: str) -> Plant:
    def plant(system: Healthy) -> None:
        system.records[topic] = [each for each in system.records[topic] if each[1] != key]

    return plant


def _wrong_shard(system: Healthy) -> None:
    size = system.bodies("snapshots", "partial")[-1]["bytes"]
    system.put("shards-changelog", "partial/0", shard_bytes(0b101, 0b010, size, 9))


def _item(job: str, **changes: Any) -> Plant:
    def plant(system: Healthy) -> None:
        system.know(snapshots={**system.known.snapshots, job: {**system.known.snapshots[job], **changes}})

    return plant


def _no_item(system: Healthy) -> None:
    system.know(snapshots={job: item for job, item in system.known.snapshots.items() if job != "quiet"})


def _task_without_outcome(system: Healthy) -> None:
    """A job still under way, all of whose batches are committed, and one task of which nobody knows."""
    system.know(settled=False)
    info = {"jobId": "young", "attempt": 1, "destination": "file:///out/good/", "hasTaskToken": False}
    system.put("requests", "young", {"job": info})
    system.put("results", "young", {"type": "JobPlanned", "job": info, "totalTasks": 1})
    task = {"index": 0, "name": "good-0.txt", "url": "http://h/good/0"}
    system.put("tasks", "young:0", {"jobId": "young", "attempt": 1, "tasks": [task]})
    system.put("jobs-changelog", "young", {"attempt": 1, "status": "RUNNING", "total": 1, "tallies": []})


def _answered_too_early(system: Healthy) -> None:
    _task_without_outcome(system)
    system.committed["tasks"] = 6
    answer = {"jobId": "young", "attempt": 1, "call": "SendTaskSuccess", "outcome": "SENT", "token": "abc"}
    system.put("callbacks", "young", answer)


def _request_without_plan(system: Healthy) -> None:
    system.know(settled=False)
    system.put("requests", "young", {"job": {"jobId": "young", "attempt": 1, "destination": "file:///out/good/"}})


def _end_without_completion(system: Healthy) -> None:
    system.know(settled=False)
    _lost("completions", "quiet")(system)


def _unsaid_answer(system: Healthy) -> None:
    _lost("callbacks", "good")(system)
    system.know(
        ledger={
            key: {name: value for name, value in item.items() if key[0] != "good" or not name.startswith("callback")}
            for key, item in system.known.ledger.items()
        }
    )


def _committed_beyond(system: Healthy) -> None:
    system.committed["tasks"] = len(system.records["tasks"]) + 1


def _lag(topic: str) -> Plant:
    def plant(system: Healthy) -> None:
        system.committed[topic] = len(system.records[topic]) - 1

    return plant


def _secret_in_topic(secret: str) -> Plant:
    def plant(system: Healthy) -> None:
        system.bodies("tasks", "good")[0]["tasks"][0]["note"] = f"https://h/?t={secret}"

    return plant


def _secret_in_report(system: Healthy) -> None:
    here = {"file:///out/none/": Destination({}, (), {"_report.jsonl": b"see canary-of-a-test"})}
    system.know(destinations={**system.known.destinations, **here})


DEFECTS: list[tuple[str, str, Plant]] = [
    ("I1", "job never-seen was deleted from the queue", _lost_message),
    ("I1", "message message-7 was deleted", _lost_unreadable_message),
    ("I1", "job endless was accepted (requests:0:4) and never ended", _never_ends),
    ("I1", "attempt 1 ended twice: COMPLETED at completions:0:0 and CANCELLED at completions:0:4", _ends_twice),
    ("I1", "execution:good of job good still waits", _still_waits),
    ("I2", "was answered 2 times: callbacks:0:0, callbacks:0:3", _answered_twice),
    ("I2", "partial is COMPLETED_WITH_FAILURES by its results, and was answered with SendTaskSuccess", _wrong_call),
    ("I2", "completedTasks 2, and its results say 3", _told("good", _said_success(completedTasks=2, failedTasks=0))),
    ("I2", "error None, and its results say JobCompl", _told("partial", _said_success(completedTasks=2, failedTasks=1))),
    ("I2", "2 answers to 1 tokens", _told("good", _said_success(completedTasks=3, failedTasks=0), instead=False)),
    (
        "I2",
        "was accepted, and told ExportRejected",
        _told("good", {"taskFailedEventDetails": RESOURCE | {"error": "ExportRejected"}}),
    ),
    ("I2", "young was answered (callbacks:0:3), and attempt 1 has not ended", _answered_too_early),
    ("I3", "3 + 0 + 0 tasks are not the total, 11", _completion("good", totalTasks=11)),
    ("I3", "completions:0:0 counts 4, 0, 0", _completion("good", completedTasks=4, totalTasks=4)),
    ("I3", "completedTasks went from 1 (snapshots:0:0) back to 0", _goes_back),
    ("I3", "the total changed from 7 to 3", _new_total),
    ("I3", "task 1 is two files", _two_files_one_index),
    ("I4", "task 1: 'good-1.txt' (7 bytes) is not what", _files("good", **{"good-1.txt": Stored(7, sha256("wrong"))})),
    ("I4", "task 2: 'partial-2.txt' (4 bytes) is not what", _files("partial", **{"partial-2.txt": Stored(4, sha256("cont"))})),
    ("I4", "task 0 succeeded, and 'quiet-0.txt' is not at", _files("quiet", **{"quiet-0.txt": None})),
    ("I4", "'a/.0123456789abcdef.part' is left over", _files("good", **{"a/.0123456789abcdef.part": Stored(1, "")})),
    ("I4", "multipart upload of 'good-1.txt'", _orphan_upload),
    ("I4", "task 0: 'quiet-0.txt' has 4 bytes, and S3 copied others", _copied_wrongly),
    ("I5", "status COMPLETED, and the fold of results COMPLETED_WITH_FAILURES", _changelog(status="COMPLETED")),
    ("I5", "counts [3, 1, 0], and the fold", _changelog(tallies=[[3, 1, 0, 26]])),
    ("I5", "job quiet has results and no entry on jobs-changelog", _lost("jobs-changelog", "quiet")),
    ("I5", "shard 0 is not on shards-changelog", _lost("shards-changelog", "quiet/0")),
    ("I5", "partial, task 1: shards-changelog:0:3 and the fold of results disagree whether it succeeded", _wrong_shard),
    ("I5", "its item in DynamoDB has completedTasks 2", _item("good", completedTasks=2)),
    ("I5", "job quiet: its item in DynamoDB is missing", _no_item),
    ("I5", "job good: its item in DynamoDB has version 1", _item("good", version=1)),
    ("I6", "job young, task 0: tasks:0:6 is committed, and no outcome", _task_without_outcome),
    ("I6", "job young: requests:0:4 is committed, and neither", _request_without_plan),
    ("I6", "its completion is not on completions", _end_without_completion),
    ("I6", "completions:0:0 is committed, and its token has no answer", _unsaid_answer),
    ("I6", "tasks:0: 7 is committed, and the last record is 5", _committed_beyond),
    ("I7", "tasks:0: download lags by 1, from offset 5 on", _lag("tasks")),
    ("I7", "snapshots:0: snapshot lags by 1", _lag("snapshots")),
    ("I8", "is in tasks:0:0", _secret_in_topic(TOKEN + "good")),
    ("I8", "is in tasks:0:0", _secret_in_topic("canary-of-a-test")),
    ("I8", "is in log worker-1.log", lambda system: system.know(logs={"worker-1.log": b"GET /?sig=canary-of-a-test"})),
    ("I8", "is in DynamoDB JOB#quiet/SNAPSHOT", _item("quiet", cause="canary-of-a-test")),
    ("I8", "is in _report.jsonl at file:///out/none/", _secret_in_report),
    ("I9", "worker 3 had 2,000 MB resident", lambda system: system.know(samples=(Sample("worker 3", 2 * 10**9, 9),))),
    ("I9", "worker 3 had 4000 open files", lambda system: system.know(samples=(Sample("worker 3", 1, 4000),))),
]


@pytest.mark.parametrize(("invariant", "says", "plant"), DEFECTS, ids=[f"{invariant} {says}" for invariant, says, _ in DEFECTS])
def test_a_planted_defect_is_found_and_blamed_on_its_invariant_alone(invariant: str, says: str, plant: Plant) -> None:
    system = Healthy()
    plant(system)
    found = violations(system.evidence())
    assert list(found) == [invariant], found
    assert any(says in sentence for sentence in found[invariant]), found


def test_every_invariant_has_a_planted_defect() -> None:
    assert {invariant for invariant, _, _ in DEFECTS} == set(CHECKS)


def test_an_answer_that_is_published_again_is_one_answer() -> None:
    system = Healthy()
    system.put("callbacks", "good", dict(system.bodies("callbacks", "good")[0]))
    assert not violations(system.evidence())


def test_a_secret_is_named_and_not_said() -> None:
    system = Healthy()
    _secret_in_topic("canary-of-a-test")(system)
    (sentence,) = violations(system.evidence())["I8"]
    assert "canary" not in sentence
    assert sha256("canary-of-a-test")[:12] in sentence


def test_an_ended_job_without_completion_is_lost_for_its_caller_and_for_the_commit() -> None:
    system = Healthy()
    _lost("completions", "quiet")(system)
    assert list(violations(system.evidence())) == ["I1", "I6"]


def test_a_running_job_is_no_violation_unless_all_should_have_settled() -> None:
    system = Healthy()
    info = {"jobId": "young", "attempt": 1, "destination": "file:///out/good/"}
    system.put("requests", "young", {"job": info})
    system.committed["requests"] = 4
    system.know(settled=False)
    assert not violations(system.evidence())
    assert any("1 job: still running" in each.gaps for each in judge(system.evidence()))
    system.know(settled=True)
    assert list(violations(system.evidence())) == ["I1", "I7"]


def test_a_plan_may_be_known_before_all_of_it_is_handed_out_but_not_when_its_request_is_done() -> None:
    system = Healthy()
    system.know(settled=False)
    info = {"jobId": "young", "attempt": 1, "destination": "file:///out/good/", "hasTaskToken": False}
    system.put("requests", "young", {"job": info})
    system.put("results", "young", {"type": "JobPlanned", "job": info, "totalTasks": 2})
    system.put("jobs-changelog", "young", {"attempt": 1, "status": "RUNNING", "total": 2, "tallies": []})
    system.committed |= {"requests": 4, "results": len(system.records["results"]) - 1}
    assert not violations(system.evidence())
    del system.committed["requests"]
    assert violations(system.evidence()) == {"I3": ("job young: 2 of 2 planned tasks were never handed out, the first is 0",)}


@pytest.mark.parametrize("topic", ["requests", "tasks", "results", "completions", "callbacks"])
def test_what_retention_has_removed_is_a_gap_and_no_violation(topic: str) -> None:
    """All of one topic is gone but for its last record."""
    system = Healthy()
    evidence = system.evidence()
    end = len(evidence.of(topic))
    last = evidence.of(topic)[-1]
    cut = replace(
        evidence,
        records={**evidence.records, topic: (last,)},
        partitions={**evidence.partitions, (topic, 0): Bounds(end - 1, end, end, last.timestamp)},
        now_ms=last.timestamp + 15 * 86_400_000,
    )
    assert not violations(cut)
    assert cut.cut == [topic]


def test_shards_are_read_as_the_tally_writes_them() -> None:
    written = Shard(succeeded=1 << 8191 | 5, failed=2, cancelled=1 << 700, size=10**12, offset=-1)
    assert shard(written.to_bytes()) == (1 << 8191 | 5, 2, 1 << 700, 10**12, -1)
    with pytest.raises(ValueError, match="format"):
        shard(b"\x02" + bytes(17))


def test_the_table_fits_80_columns_and_sentences_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    system = Healthy()
    _no_item(system)
    evidence = system.evidence()
    table, _, sentences = as_text(judge(evidence), evidence).partition("\n\n")
    assert len(table.splitlines()) == len(CHECKS)
    assert max(map(len, table.splitlines())) <= 80
    assert "I5  VIOLATED 1    tables = fold" in table
    assert sentences.startswith("I5 violated: job quiet: its item in DynamoDB is missing")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert max(map(len, as_text(judge(evidence), evidence).splitlines())) <= 80
    said = as_object(judge(evidence), evidence)
    assert (said["ok"], said["invariants"][4]["verdict"]) == (False, "VIOLATED")


def _quiet(system: Healthy, **changes: Any) -> None:
    """Its item in DynamoDB has these."""
    known = system.known.snapshots
    system.know(snapshots={**known, "quiet": {**known["quiet"], **changes}})


def test_differences_are_named_field_by_field() -> None:
    system = Healthy()
    _quiet(system, completedTasks=1, userId="x")
    evidence = system.evidence()
    tables = judge(evidence)[4]
    assert [tuple(each) for each in tables.differences] == [
        ("quiet", "its item in DynamoDB", "completedTasks", 1, 2),
        ("quiet", "its item in DynamoDB", "userId", "x", "u"),
    ]
    assert tables.as_json()["differences"][0]["found"] == 1
    assert "completedTasks   1                          2                          job quiet, its item" in as_text(
        [tables], evidence
    )


def test_an_item_of_a_later_version_is_still_the_fold() -> None:
    """What a replay has rebuilt has the version of the record that did it."""
    system = Healthy()
    _quiet(system, version=999)
    assert not violations(system.evidence())
    _quiet(system, bytes=1)
    assert list(violations(system.evidence())) == ["I5"]


def test_since_a_time_older_jobs_are_not_looked_at() -> None:
    system = Healthy()
    _no_item(system)  # of `quiet`
    evidence = system.evidence()
    begun = {raw.key: raw.timestamp for raw in evidence.of("requests")}
    assert list(violations(replace(evidence, since_ms=begun[b"quiet"]))) == ["I5"]
    assert not violations(replace(evidence, since_ms=begun[b"quiet"] + 1))
    assert not violations(replace(evidence, since_ms=begun[b"unplanned"] + 1))
