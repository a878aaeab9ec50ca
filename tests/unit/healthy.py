"""A small healthy system, made by hand and not by the pipeline, for tests of the oracle to break in one place.

Partition 0 of every topic, everything committed. Jobs: `good` (token; its second task was handed back once), `partial` (token; one
file of three is missing at its source), `quiet` (no token), `unplanned` (token; its manifest could not be read).
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

from export_service.verify.evidence import READERS, TOPICS, Bounds, Destination, Evidence, Execution, Raw, Sample, Sent, Stored
from export_service.verify.history import iso

START = 1_700_000_000_000
RESOURCE = {"resource": "sendMessage.waitForTaskToken", "resourceType": "sqs"}
TOKEN = "AAAAKgAAAAIAAAAA-token-of-"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def content(name: str) -> str:
    return f"content of {name}"


def shard(succeeded: int, failed: int, size: int, offset: int) -> bytes:
    """By the documented layout."""
    raw, present = b"", 0
    for bit, bits in enumerate((succeeded, failed)):
        if bits:
            present |= 1 << bit
            raw += b"\x01\x00" + bits.to_bytes(1, "little")
    return bytes((1, present)) + size.to_bytes(8, "little") + offset.to_bytes(8, "little", signed=True) + raw


@dataclass
class Healthy:
    """Change what you like, then take `evidence()`."""

    records: dict[str, list[tuple[int, str, Any]]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    """Topic -> (timestamp, key, JSON value or bytes), in the order of their offsets."""
    committed: dict[str, int] = field(default_factory=dict)
    """Topic -> offset, where it is not the end."""
    known: Evidence = field(default_factory=Evidence)

    def __post_init__(self) -> None:
        self.known = Evidence(
            settled=True, queue_left=0, secrets=("canary-of-a-test",), logs={"worker-0.log": b"{}"}, now_ms=START + 60_000,
            samples=(Sample("worker 0", 200_000_000, 90),),
        )  # fmt: skip
        self._job("good", 3, token=True, handed_back=True)
        self._job("partial", 3, token=True, failed=1)
        self._job("quiet", 2, token=False)
        self._job("unplanned", None, token=True)

    def put(self, topic: str, key: str, value: Any) -> int:
        """Append a record; its offset."""
        found = self.records[topic]
        own = value if isinstance(value, bytes) else json.loads(json.dumps(value))
        found.append((START + sum(map(len, self.records.values())), key, own))
        return len(found) - 1

    def bodies(self, topic: str, job: str) -> list[dict[str, Any]]:
        """The JSON values of a job, to be changed in place."""
        return [value for _, key, value in self.records[topic] if key.split(":")[0] == job]

    def know(self, **changes: Any) -> None:
        self.known = replace(self.known, **changes)

    def evidence(self) -> Evidence:
        partitions, records = {}, {}
        for topic, found in self.records.items():
            end = len(found)
            committed = self.committed.get(topic, end) if topic in READERS else None
            partitions[topic, 0] = Bounds(0, end, committed, found[0][0] if found else None)
            records[topic] = tuple(
                Raw(topic, 0, offset, at, key.encode(), value if isinstance(value, bytes) else json.dumps(value).encode())
                for offset, (at, key, value) in enumerate(found)
            )
        return replace(self.known, partitions=partitions, records=records)

    def _job(self, job: str, total: int | None, *, token: bool, failed: int = 0, handed_back: bool = False) -> None:
        place = f"file:///out/{job}/"
        info = {"jobId": job, "attempt": 1, "exportId": "e", "userId": "u", "destination": place, "hasTaskToken": token}
        self.put(
            "requests", job, {"type": "ExportRequested", "job": info, "manifest": {"url": "s3://b/m.jsonl", "format": "jsonl"}}
        )
        self.know(sent=(*self.known.sent, Sent(job)))
        if total is None:
            offset = self.put("results", job, {"type": "PlanFailed", "job": info, "cause": "no such manifest"})
            self._end(job, info, "FAILED", offset, None, 0, 0, 0)
            return
        tasks: list[dict[str, Any]] = [{"index": n, "name": f"{job}-{n}.txt", "url": f"http://h/{job}/{n}"} for n in range(total)]
        batch = {"type": "TaskBatch", "jobId": job, "attempt": 1, "destination": place}
        self.put("tasks", f"{job}:0", batch | {"tasks": tasks[:2]})
        for task in tasks[2:]:
            self.put("tasks", f"{job}:{task['index']}", batch | {"tasks": [task]})
        if handed_back:
            self.put("tasks", f"{job}:1", batch | {"tasks": tasks[1:2]})
        self._snapshot(job, info, "PENDING", self.put("results", job, self._results(job, tasks[:1])), None, 1, 0)
        self.put("results", job, {"type": "JobPlanned", "job": info, "totalTasks": total})
        done = tasks[: total - failed]
        self.put("results", job, self._results(job, done[:1]))  # comes twice, counts once
        if failed:
            bad = [each | {"outcome": "FAILED", "bytes": 0, "error": "HttpNotFound"} for each in tasks[-failed:]]
            self.put("results", job, {"type": "TaskResults", "jobId": job, "attempt": 1, "results": bad})
        offset = self.put("results", job, self._results(job, done[1:]))
        self._end(job, info, "COMPLETED_WITH_FAILURES" if failed else "COMPLETED", offset, total, len(done), failed, len(tasks))
        files = {task["name"]: Stored(len(content(task["name"])), sha256(content(task["name"]))) for task in done}
        report = {"_report.jsonl": Stored(2, "")}
        here = {place: Destination(files | report, (), {"_report.jsonl": b"{}"})}
        self.know(
            destinations={**self.known.destinations, **here},
            sources={**self.known.sources, **{task["url"]: sha256(content(task["name"])) for task in tasks}},
        )

    def _results(self, job: str, tasks: list[dict[str, Any]]) -> dict[str, Any]:
        results = [
            task | {"outcome": "SUCCEEDED", "bytes": len(content(task["name"])), "sha256": sha256(content(task["name"]))}
            for task in tasks
        ]
        return {"type": "TaskResults", "jobId": job, "attempt": 1, "results": results}

    def _snapshot(self, job: str, info: dict[str, Any], status: str, offset: int, total: int | None, done: int, bad: int) -> Any:
        size = sum(len(content(f"{job}-{n}.txt")) for n in range(done))
        body = {
            "type": "JobSnapshot", "jobId": job, "attempt": 1, "version": offset + 1, "status": status, "completedTasks": done,
            "failedTasks": bad, "cancelledTasks": 0, "bytes": size, "hasTaskToken": info["hasTaskToken"],
            **{name: info[name] for name in ("exportId", "userId", "destination")},
        }  # fmt: skip
        if total is not None:
            body["totalTasks"] = total
        if status in ("COMPLETED", "COMPLETED_WITH_FAILURES", "FAILED"):
            body["completedAt"] = iso(self.records["results"][offset][0])
        self.put("snapshots", job, dict(body))
        return body

    def _end(
        self, job: str, info: dict[str, Any], status: str, offset: int, total: int | None, done: int, bad: int, tasks: int
    ) -> None:
        snapshot = self._snapshot(job, info, status, offset, total, done, bad)
        state = {
            "attempt": 1, "status": status, "tallies": [[done, bad, 0, snapshot["bytes"]]] if total else [],
            "offset": offset, "completedAt": snapshot["completedAt"],
        }  # fmt: skip
        self.put("jobs-changelog", job, state | ({"total": total} if total is not None else {}))
        if tasks:
            succeeded, failed = (1 << done) - 1, ((1 << bad) - 1) << done
            self.put("shards-changelog", f"{job}/0", shard(succeeded, failed, snapshot["bytes"], offset))
        self.put("completions", job, {"type": "JobCompleted", "id": f"{job}:1", "snapshot": dict(snapshot)})
        self.know(snapshots={**self.known.snapshots, job: dict(snapshot)})
        item: dict[str, Any] = {"tokenFingerprint": "none", "sealKey": job.encode() * 8}
        if info["hasTaskToken"]:
            self._answer(job, snapshot, item)
        self.know(ledger={**self.known.ledger, (job, 1): item})

    def _answer(self, job: str, snapshot: dict[str, Any], item: dict[str, Any]) -> None:
        good, mark = snapshot["status"] == "COMPLETED", sha256(TOKEN + job)[:12]
        call = "SendTaskSuccess" if good else "SendTaskFailure"
        answer = {"type": "CallbackAnswered", "jobId": job, "attempt": 1, "call": call, "outcome": "SENT", "token": mark}
        self.put("callbacks", job, answer)
        item |= {"taskToken": TOKEN + job, "tokenFingerprint": mark, "callback": json.dumps(answer), "callbackOutcome": "SENT"}
        told = {name: snapshot.get(name) for name in ("jobId", "totalTasks", "completedTasks", "failedTasks")}
        if good:
            event = {"taskSucceededEventDetails": RESOURCE | {"output": json.dumps(told | {"status": "COMPLETED"})}}
        else:
            error = "JobCompletedWithFailures" if snapshot["status"] == "COMPLETED_WITH_FAILURES" else "ExportPlanFailed"
            event = {"taskFailedEventDetails": RESOURCE | {"error": error, "cause": json.dumps(told)}}
        waits = {"taskScheduledEventDetails": RESOURCE}
        execution = Execution(f"arn:aws:states:::execution:{job}", "SUCCEEDED", job, (waits, event))
        self.know(executions=(*self.known.executions, execution))
