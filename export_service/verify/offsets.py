"""I6 and I7: what the consumer groups have committed, against what is on the next topic."""

from collections import defaultdict

from export_service.verify.evidence import READERS, Raw
from export_service.verify.finding import Finding
from export_service.verify.history import History, Job


def nothing_unconfirmed_is_committed(history: History) -> Finding:
    """A record below a committed offset has its output on the next topic, or is a dead letter.

    Evidence is gathered commits first, so an output that was confirmed before its commit is always in it. Snapshots are in I5.
    """
    finding, evidence = Finding(), history.evidence
    for (topic, partition), bounds in evidence.partitions.items():
        if bounds.committed is not None and bounds.committed > bounds.end:
            finding.violated(f"{topic}:{partition}: {bounds.committed} is committed, and the last record is {bounds.end - 1}")
    if not any(bounds.committed is not None for bounds in evidence.partitions.values()):
        finding.gap("no group has committed anything")
    for job in history.jobs.values():
        _tasks(history, job, finding)
        _requests(history, job, finding)
        _results(history, job, finding)
        _completions(history, job, finding)
    if "table" in evidence.missing:
        finding.gap(f"answers in the ledger: {evidence.missing['table']}")
    return finding


def _tasks(history: History, job: Job, finding: Finding) -> None:
    evidence, since = history.evidence, history.evidence.kept_since("results")
    outcomes = {(event.attempt, result["index"]) for event in job.of("results") for result in event.body.get("results", ())}
    handed_out: dict[tuple[int, int], list[Raw]] = defaultdict(list)
    for batch, task in job.tasks():
        handed_out[batch.attempt, task["index"]].append(batch.raw)
    for (attempt, index), batches in handed_out.items():
        # A batch that is handed back comes as a later one: the task is lost when each of them is committed.
        if (attempt, index) not in outcomes and batches[0].timestamp >= since and all(map(evidence.committed, batches)):
            places = ", ".join(batch.place for batch in batches)
            finding.violated(f"job {job.id}, task {index}: {places} is committed, and no outcome is on results")


def _requests(history: History, job: Job, finding: Finding) -> None:
    evidence, since = history.evidence, history.evidence.kept_since("results")
    planned = {event.attempt for event in job.of("results") if event.body.get("type") in ("JobPlanned", "PlanFailed")}
    for request in job.of("requests"):
        if evidence.committed(request.raw) and request.raw.timestamp >= since and request.attempt not in planned:
            finding.violated(f"job {job.id}: {request.raw.place} is committed, and neither JobPlanned nor PlanFailed is on results")


def _results(history: History, job: Job, finding: Finding) -> None:
    evidence, folded = history.evidence, job.folded
    ended = folded.ended
    if not job.whole or ended is None or not evidence.committed(ended):
        return
    completed = any(each.attempt == folded.attempt for each in job.of("completions"))
    if not completed and ended.timestamp >= evidence.kept_since("completions"):
        finding.violated(f"job {job.id} ended with {ended.place}, which is committed, and its completion is not on completions")
    if not any((each.attempt, each.body["version"]) >= (folded.attempt, ended.offset + 1) for each in job.of("snapshots")):
        finding.violated(f"job {job.id} ended with {ended.place}, which is committed, and its last snapshot is not on snapshots")


def _completions(history: History, job: Job, finding: Finding) -> None:
    evidence = history.evidence
    answered = {each.attempt for each in job.of("callbacks")}
    answered |= {attempt for attempt, item in job.ledger.items() if "callback" in item}
    if "table" in evidence.missing:
        return
    for completion in job.of("completions"):
        waits = completion.body["snapshot"].get("hasTaskToken", False)
        young = completion.raw.timestamp >= evidence.kept_since("callbacks")
        if waits and young and evidence.committed(completion.raw) and completion.attempt not in answered:
            finding.violated(
                f"job {job.id}: {completion.raw.place} is committed, and its token has no answer in ledger or callbacks"
            )


def no_lag(history: History) -> Finding:
    """I7."""
    finding, evidence = Finding(), history.evidence
    if not evidence.settled:
        return finding.skip("only with --settled: a running system has work to do")
    for topic, role in READERS.items():
        for partition, bounds in sorted(evidence.bounds(topic).items()):
            if bounds.lag:
                finding.violated(f"{topic}:{partition}: {role} lags by {bounds.lag}, from offset {bounds.done} on")
    return finding
