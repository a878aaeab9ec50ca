"""I1, I2, I3: how jobs end, what Step Functions was told, and the numbers.

Jobs may have several attempts; what is said of one is compared with the end of that one.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from export_service.verify.evidence import Execution
from export_service.verify.finding import RETENTION, Finding
from export_service.verify.history import CANCELLED, TERMINAL, End, History, Job

_COUNTERS = ("completedTasks", "failedTasks", "cancelledTasks")


def one_end(history: History) -> Finding:
    """I1. Without `settled` only contradictions: a job that still runs is none."""
    finding, evidence = Finding(), history.evidence
    running = cut = 0
    for job in history.jobs.values():
        ends: dict[int, dict[str, str]] = defaultdict(dict)
        for completion in job.of("completions"):
            ends[completion.attempt].setdefault(str(completion.body["snapshot"]["status"]), completion.raw.place)
        for attempt, states in ends.items():
            if len(states) > 1:
                said = " and ".join(f"{state} at {place}" for state, place in states.items())
                finding.violated(f"job {job.id}, attempt {attempt} ended twice: {said}")
            for state in set(states) - set(TERMINAL):
                finding.violated(f"job {job.id}: {states[state]} says that it ended, as {state}")
        if not ends and job.of("requests"):
            if not evidence.settled:
                running += 1
            elif job.born < evidence.kept_since("completions"):
                cut += 1
            else:
                place = job.of("requests")[0].raw.place
                finding.violated(f"job {job.id} was accepted ({place}) and never ended: nothing on completions")
    finding.count_gap(running, "still running")
    finding.count_gap(cut, RETENTION)
    _messages(history, finding)
    if evidence.settled:
        for execution in evidence.executions:
            if execution.status == "RUNNING":
                finding.violated(f"execution {execution.arn} of job {execution.job_id} still waits")
    return finding


def _messages(history: History, finding: Finding) -> None:
    evidence = history.evidence
    known = {job.id for job in history.jobs.values() if job.of("requests")}
    known |= {str(letter.body[name]) for letter in history.letters for name in ("jobId", "messageId") if name in letter.body}
    lost = [sent for sent in evidence.sent if sent.job_id not in known and sent.message_id not in known]
    if not lost:
        return None
    if evidence.queue_left is None or evidence.queue_left or evidence.since_ms or evidence.kept_since("requests"):
        return finding.gap(f"{len(lost)} messages are on no topic; whether they are still on the queue is not known")
    for sent in lost:
        what = f"job {sent.job_id}" if sent.job_id else f"message {sent.message_id}"
        finding.violated(f"{what} was deleted from the queue, and is neither on requests nor on dead-letters")
    return None


def one_answer(history: History) -> Finding:
    """I2. That the outcomes agree with the files is I4."""
    finding, evidence = Finding(), history.evidence
    cut = 0
    for job in history.jobs.values():
        # By what they say: an answer that is published again, after a crash, is one answer.
        accepted: dict[str, dict[str, str]] = defaultdict(dict)
        calls: dict[tuple[int, str], str] = {}
        for record in job.of("callbacks"):
            if record.body["outcome"] == "SENT":
                accepted[str(record.body.get("token"))].setdefault(json.dumps(record.body, sort_keys=True), record.raw.place)
                calls[record.attempt, record.raw.place] = str(record.body.get("call"))
        for token, places in accepted.items():
            if len(places) > 1:
                finding.violated(f"job {job.id}: token {token} was answered {len(places)} times: {', '.join(places.values())}")
        for attempt, item in job.ledger.items():
            answer = json.loads(item.get("callback", "{}"))
            if answer.get("outcome") == "SENT":
                calls[attempt, f"ATTEMPT#{attempt:04d}"] = answer["call"]
        folded = job.folded
        if not job.whole:
            cut += bool(calls)
            continue
        for (attempt, where), call in calls.items():
            end = folded.ends.get(attempt)
            if end is None:
                finding.violated(f"job {job.id} was answered ({where}), and attempt {attempt} has not ended by its results")
            elif end and call != ("SendTaskSuccess" if end.status == "COMPLETED" else "SendTaskFailure"):
                finding.violated(f"job {job.id} is {end.status} by its results, and was answered with {call} ({where})")
    finding.count_gap(cut, "answered, and their results are not all there")
    for execution in evidence.executions:
        _execution(history, execution, finding)
    if not evidence.executions:
        finding.gap("no execution histories given: what Step Functions heard is taken from callbacks and ledger")
    return finding


def _execution(history: History, execution: Execution, finding: Finding) -> None:
    answers = list(_answers(execution))
    waits = sum(_of_token(event.get("taskScheduledEventDetails", {})) for event in execution.events)
    if len(answers) > waits:
        finding.violated(f"execution {execution.arn} of job {execution.job_id} has {len(answers)} answers to {waits} tokens")
    job = history.jobs.get(execution.job_id or "")
    if job is None or not job.whole or not job.folded.ended:
        return
    for told in answers:
        if told.get("error") == "ExportRejected":
            # Right for another message with the same id, which is then a dead letter.
            if any(letter.body.get("jobId") == job.id for letter in history.letters):
                continue
            finding.violated(f"execution {execution.arn}: job {job.id} was accepted, and told ExportRejected")
        # Which of the job's tokens was this execution's is not in its history.
        elif all(wrong := [_untrue(told, end) for end in job.folded.ends.values()]):
            finding.violated(f"execution {execution.arn}: job {job.id} was told {wrong[-1]}")


def _answers(execution: Execution) -> Iterator[Mapping[str, Any]]:
    """What each token was answered, as our payload; a time-out, or a message that could not be sent, is none."""
    for event in execution.events:
        succeeded, failed = event.get("taskSucceededEventDetails", {}), event.get("taskFailedEventDetails", {})
        if _of_token(succeeded):
            yield _object(succeeded["output"])
        elif _of_token(failed) and not str(failed.get("error")).startswith(("States.", "SQS.")):
            yield _object(failed.get("cause")) | {"error": failed.get("error")}


def _of_token(details: Mapping[str, Any]) -> bool:
    """Other tasks of the state machine are not ours."""
    return "waitForTaskToken" in details.get("resource", "")


def _object(text: Any) -> dict[str, Any]:
    """{} where it is not a JSON object, as with EXPORT_CALLBACK_CAUSE=text."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _untrue(told: Mapping[str, Any], end: End) -> str | None:
    right: dict[str, Any] = {"totalTasks": end.total, "completedTasks": end.counts[0], "failedTasks": end.counts[1]}
    right["status" if end.status == "COMPLETED" else "error"] = {
        "COMPLETED": "COMPLETED",
        "COMPLETED_WITH_FAILURES": "JobCompletedWithFailures",
        "CANCELLED": "ExportCancelled",
    }.get(end.status, told.get("error"))
    said = {name: told.get(name) for name in right}
    if "totalTasks" not in told and "error" in right:
        said = {"error": said["error"]}
    wrong = [f"{name} {value}, and its results say {right[name]}" for name, value in said.items() if value != right[name]]
    return "; ".join(wrong) or None


def counters(history: History) -> Finding:
    """I3."""
    finding = Finding()
    cut = 0
    for job in history.jobs.values():
        cut += not job.whole
        _plan(history, job, finding)
        _monotonic(job, finding)
        for completion in job.of("completions"):
            snapshot, place = completion.body["snapshot"], completion.raw.place
            said, total = tuple(snapshot.get(name, 0) for name in _COUNTERS), snapshot.get("totalTasks")
            if snapshot["status"].startswith("COMPLETED") and sum(said) != total:
                finding.violated(f"job {job.id}: {' + '.join(map(str, said))} tasks are not the total, {total} ({place})")
            elif job.whole and (end := job.folded.ends.get(completion.attempt)) and said != end.counts:
                seen = ", ".join(map(str, end.counts))
                finding.violated(
                    f"job {job.id}: {place} counts {', '.join(map(str, said))} succeeded, failed, cancelled; "
                    f"distinct ids on results are {seen}"
                )
    finding.count_gap(cut, RETENTION)
    return finding


def _plan(history: History, job: Job, finding: Finding) -> None:
    """Each index is one file, each name one index, and the total is what was handed out."""
    names: dict[int, str] = {}
    for batch, task in job.tasks():
        if batch.attempt < job.folded.plan:
            continue  # of a list of files that was given up
        if names.setdefault(task["index"], task["name"]) != task["name"]:
            finding.violated(
                f"job {job.id}, task {task['index']} is two files, {names[task['index']]!r} and {task['name']!r} ({batch.raw.place})"
            )
    if len(set(names.values())) < len(names):
        finding.violated(f"job {job.id}: {len(names)} tasks have {len(set(names.values()))} names")
    total = job.folded.total
    unread = any(place.startswith("tasks:") for place in history.dead)
    if total is not None and not unread and job.whole and job.born >= history.evidence.kept_since("tasks"):
        missing = set(range(total)) - set(names)
        if any(not history.evidence.committed(request.raw) for request in job.of("requests")):
            # Handed out as fast as it is downloaded: the rest is to come, unless it is said to be done.
            missing &= set(job.folded.best)
        # The job stopped before they were.
        missing -= {index for index, outcome in job.folded.best.items() if outcome == CANCELLED}
        if missing:
            finding.violated(
                f"job {job.id}: {len(missing)} of {total} planned tasks were never handed out, the first is {min(missing)}"
            )


def _monotonic(job: Job, finding: Finding) -> None:
    """By (attempt, version), as a replay may send an old snapshot again. A failed task may still succeed; a finished one stays so."""
    snapshots = sorted(job.of("snapshots"), key=lambda each: (each.attempt, each.body["version"], each.raw.offset))
    for before, after in pairwise(snapshots):
        if before.attempt != after.attempt or before.body["version"] == after.body["version"]:
            continue
        old, new = before.body, after.body
        pairs = {
            "completedTasks": (old.get("completedTasks", 0), new.get("completedTasks", 0)),
            "finished tasks": tuple(sum(each.get(name, 0) for name in _COUNTERS) for each in (old, new)),
        }
        for what, (was, became) in pairs.items():
            if became < was:
                finding.violated(f"job {job.id}: {what} went from {was} ({before.raw.place}) back to {became} ({after.raw.place})")
        if old.get("totalTasks") not in (None, new.get("totalTasks")):
            finding.violated(
                f"job {job.id}: the total changed from {old['totalTasks']} to {new.get('totalTasks')} ({after.raw.place})"
            )
