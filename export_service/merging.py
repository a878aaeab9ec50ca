"""Several results of one job folded in one step, where that gives just what folding them one after the other gives.

A job whose results come one by one has several in what a fetch brings, and most of a fold's work is the same for one as for ten.
"""

from collections.abc import Sequence
from datetime import datetime

from export_service.jobs import JobState, Step, fold
from export_service.messages import TaskResults
from export_service.shards import ReadShard, ShardKey


def fold_together(
    state: JobState, events: Sequence[TaskResults], first: int, offset: int, at: datetime, shard: ReadShard
) -> Step | None:
    """What the last of these does after all others; None if they may not be folded together.

    They may if each outcome is the first of its task, all are of one shard, and the job does not end with them. Then each event changes the
    state and the shard, in any order to the same bitmaps; and the last one leaves its offset and time. Not if a crash has kept the shard
    as a later event left it: then some of these change nothing.

    Args:
        events: of one job, and in the order of their offsets.
        first: the first one's offset.
        offset, at: the last one's.
    """
    attempt = events[0].attempt
    if any(event.attempt != attempt or not event.results for event in events):
        return None
    results = tuple(result for event in events for result in event.results)
    step = fold(state, TaskResults(job_id=events[0].job_id, attempt=attempt, results=results), offset, at, shard)
    if len(step.shards) != 1 or step.completes:
        return None
    ((key, _),) = step.shards.items()
    every_one_new = _finished(step.state, key) - _finished(state, key) == step.state.finished - state.finished == len(results)
    return step if every_one_new and shard(*key).offset < first else None


def _finished(state: JobState, key: ShardKey) -> int:
    """Tasks of one shard, as the state knows them."""
    return sum(state.tallies[key[1]][:3]) if key[1] < len(state.tallies) else 0
