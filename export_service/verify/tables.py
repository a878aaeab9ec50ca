"""I5: changelogs and DynamoDB, against a fold of `results`.

The last values of a changelog are what a table has after a recovery, so reading them is a recovery without the pipeline's code.
"""

import json
from collections.abc import Mapping
from typing import Any

from export_service.verify.evidence import Evidence, Raw
from export_service.verify.finding import RETENTION, Finding
from export_service.verify.history import SHARD_TASKS, History, Job, iso, shard


def tables_are_the_fold(history: History) -> Finding:
    """Of jobs whose events the tally has committed: tables of the others are on their way."""
    finding, evidence = Finding(), history.evidence
    states, shards = _last(evidence, "jobs-changelog"), _last(evidence, "shards-changelog")
    cut = moving = seen = 0
    for job in history.jobs.values():
        if "table" not in evidence.missing:
            _snapshot(evidence, job, finding)
        if not job.whole or not job.of("results"):
            cut += not job.whole
        elif not evidence.settled and not evidence.committed(job.folded.ended or job.of("results")[-1].raw):
            moving += 1
        else:
            seen += 1
            _state(job, states.get(job.id), finding)
            _shards(job, shards, finding)
    finding.count_gap(moving, "still being counted")
    finding.count_gap(cut, RETENTION)
    if "table" in evidence.missing:
        finding.gap(evidence.missing["table"])
    finding.skipped = bool(cut) and not seen
    return finding


def _last(evidence: Evidence, topic: str) -> dict[str, Raw]:
    return {(raw.key or b"").decode(errors="replace"): raw for raw in evidence.of(topic)}


def _state(job: Job, raw: Raw | None, finding: Finding) -> None:
    if raw is None:
        return finding.violated(f"job {job.id} has results and no entry on jobs-changelog: a recovery would lose it")
    if raw.value is None:
        return None  # a finished job that was removed
    found, folded = json.loads(raw.value), job.folded
    tallies = [sum(column) for column in zip(*found.get("tallies", ()), strict=False)] or [0, 0, 0, 0]
    finding.differs(
        job.id,
        raw.place,
        {**found, "counts": tallies[:3], "bytes": tallies[3]},
        {"attempt": folded.attempt, "status": folded.status, "total": folded.total, "counts": [*folded.counts], **_end(job)},
    )
    return None


def _shards(job: Job, changelog: Mapping[str, Raw], finding: Finding) -> None:
    total = job.folded.total
    for (run, number), right in job.folded.shards().items():
        raw = changelog.get(f"{job.id}/{number}" if run == 1 else f"{job.id}/{run}.{number}")
        if raw is None:
            finding.violated(f"job {job.id}: shard {number} is not on shards-changelog")
            continue
        if raw.value is None:
            continue
        try:
            *bitmaps, size, _ = shard(raw.value)
        except ValueError as error:
            finding.violated(f"job {job.id}, shard {number}: {raw.place} {error}")
            continue
        # Tasks beyond a total that became known later stay in the shard until it is written next; they count nowhere.
        mask = -1 if total is None else (1 << min(max(total - number * SHARD_TASKS, 0), SHARD_TASKS)) - 1
        for name, found, wanted in zip(("succeeded", "failed", "cancelled"), bitmaps, right, strict=False):
            if different := (found & mask) ^ wanted:
                task = number * SHARD_TASKS + (different & -different).bit_length() - 1
                finding.violated(f"job {job.id}, task {task}: {raw.place} and the fold of results disagree whether it {name}")
        if size != right[3]:
            finding.violated(f"job {job.id}, shard {number}: {raw.place} has {size} bytes, and the fold of results {right[3]}")


def _snapshot(evidence: Evidence, job: Job, finding: Finding) -> None:
    """The item is as new as the snapshot role says, and that of an ended job is the fold."""
    item, ended = evidence.snapshots.get(job.id), job.folded.ended
    due = [
        (record.attempt, int(record.body["version"]), record.raw.place)
        for record in job.of("snapshots")
        if evidence.settled or evidence.committed(record.raw)
        if record.raw.timestamp + evidence.ttl_ms >= evidence.now_ms
    ]
    attempt, version, place = max(due, default=(0, 0, ""))
    if (attempt, version) > ((item["attempt"], item["version"]) if item else (0, 0)):
        has = f"has version {item['version']}" if item else "is missing"
        finding.violated(f"job {job.id}: its item in DynamoDB {has}, and {place} is version {version}")
    # One of a later version is of the same end: what a replay has rebuilt.
    if item and ended and job.whole and item["attempt"] == job.folded.attempt and item["version"] > ended.offset:
        names = ("completedTasks", "failedTasks", "cancelledTasks")
        right = {"status": job.folded.status, "totalTasks": job.folded.total, **dict(zip(names, job.folded.counts, strict=True))}
        asked = job.of("requests")[0].body["job"]
        right |= {name: asked[name] for name in ("exportId", "userId", "destination") if name in asked}
        finding.differs(job.id, "its item in DynamoDB", item, right | _end(job))


def _end(job: Job) -> dict[str, Any]:
    end = job.folded.end
    return {"bytes": sum(job.folded.sizes.values()), "completedAt": iso(end.at) if end else None}
