"""What a replay would do, job by job, and why: decided from what was read, before anything is sent."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from export_service import snapshots
from export_service.history.compare import differing, state_differs
from export_service.history.records import body
from export_service.jobs import JobState
from export_service.messages import JobSnapshot
from export_service.ports import Attempt
from export_service.shards import Shard, ShardKey
from export_service.verify.evidence import Raw
from export_service.verify.finding import Difference


class Action(NamedTuple):
    """`do`: something is to be sent for the job; `why` says why, or why not."""

    job_id: str
    attempt: int
    do: bool
    why: str
    differences: tuple[Difference, ...] = ()

    def as_json(self) -> dict[str, Any]:
        found = {"jobId": self.job_id, "attempt": self.attempt, "do": self.do, "why": self.why}
        return found | {"differences": [each._asdict() for each in self.differences]}


def rebuild(
    job_id: str,
    state: JobState,
    shards: Mapping[ShardKey, Shard],
    changelog: Mapping[bytes, Raw],
    item: JobSnapshot | None,
    *,
    rebuilt: bool,
    end: int,
) -> Action:
    """`changelog`: the last values of both tables, by key, read after `results`, which was read to `end`."""
    entry = changelog.get(job_id.encode())
    if entry is not None and ((body(entry) or {}).get("offset") or 0) >= end:
        return Action(job_id, state.attempt, False, f"has moved since results were read: {entry.place} has a later event")
    if entry is None:
        found = [Difference(job_id, "jobs-changelog", "entry", None, state.status.value)]
    else:
        found = state_differs(job_id, entry, state, rebuilt=rebuilt)
    found += _shards_differ(job_id, state, shards, changelog)
    found += _item_differs(job_id, state, item)
    if not found:
        return Action(job_id, state.attempt, False, "table entries and item are what the events say")
    places = dict.fromkeys(each.where for each in found)
    return Action(job_id, state.attempt, True, f"not what the events say: {', '.join(places)}", tuple(found))


def _shards_differ(
    job_id: str, state: JobState, shards: Mapping[ShardKey, Shard], changelog: Mapping[bytes, Raw]
) -> Iterable[Difference]:
    for (run, number), right in sorted(shards.items()):
        if run < state.plan:
            continue  # of a list that was given up: it counts nowhere
        key = f"{job_id}/{number}" if run == 1 else f"{job_id}/{run}.{number}"
        raw = changelog.get(key.encode())
        where = raw.place if raw else "shards-changelog"
        try:
            known = Shard.from_bytes(raw.value) if raw and raw.value else Shard()
        except ValueError as error:
            yield Difference(job_id, where, f"shard {run}.{number}", str(error), right.tally())
            continue
        if known[:4] != right[:4]:
            yield Difference(job_id, where, f"shard {run}.{number}", known.tally(), right.tally())


def _item_differs(job_id: str, state: JobState, item: JobSnapshot | None) -> list[Difference]:
    """While a job runs its item may be older than its state."""
    right = snapshots.of(job_id, state)
    if item is None:
        return [Difference(job_id, "DynamoDB", "item", None, right.status.value)]
    if not state.status.terminal or item.attempt > right.attempt:
        return []
    recorded, fold = (json.loads(each.to_bytes()) for each in (item, right))
    # A later version of the same end is what an earlier replay has put back.
    ignore = ("version",) if item.version > right.version else ()
    return differing(job_id, "DynamoDB", recorded, fold, ignore)


def re_emit(job_id: str, state: JobState, attempt: Attempt | None, waits_at: str | None) -> Action:
    """`attempt`: of the ledger, the job's newest. `waits_at`: its completion, if nobody has done with that."""

    def nothing(why: str) -> Action:
        return Action(job_id, state.attempt, False, why)

    if not state.status.terminal:
        return nothing(f"has not ended: {state.status}")
    if attempt is None:
        return nothing(f"attempt {state.attempt} is not in the ledger: it has expired, or EXPORT_TABLE_NAME is another table")
    if attempt.token is None:
        return nothing("has no task token: nobody waits")
    if attempt.answer is not None:
        error = f" ({attempt.answer.error})" if attempt.answer.error else ""
        return nothing(f"answered before: {attempt.answer.outcome}{error}")
    if waits_at is not None:
        return nothing(f"its completion waits at {waits_at} for the callback role")
    tried = "; a call may have been accepted without our hearing of it" if attempt.claimed else ""
    return Action(job_id, state.attempt, True, f"{state.status}, and its token has no answer in the ledger{tried}")
