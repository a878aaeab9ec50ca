"""Several results of one job folded in one step, where that gives just what folding them one after the other gives.

A job whose results come one by one has several in what a fetch brings, and most of a fold's work is the same for one as for ten.
"""

from collections.abc import Sequence
from datetime import datetime

from export_service.jobs import JobState, Step, fold
from export_service.messages import TaskResults
from export_service.shards import ReadShard


def fold_together(state: JobState, events: Sequence[TaskResults], offset: int, at: datetime, shard: ReadShard) -> Step | None:
    """What the last of these does after all others; None if they may not be folded together.

    They may if each outcome is the first of its task, all are of one shard, and the job does not end with them. Then each event changes the
    state and the shard, in any order to the same bitmaps; and the last one leaves its offset and time.

    Args:
        events: of one job, and in the order of their offsets.
        offset, at: the last one's.
    """
    attempt = events[0].attempt
    if any(event.attempt != attempt or not event.results for event in events):
        return None
    results = tuple(result for event in events for result in event.results)
    step = fold(state, TaskResults(job_id=events[0].job_id, attempt=attempt, results=results), offset, at, shard)
    every_one_new = len(step.shards) == 1 and step.state.finished - state.finished == len(results)
    return step if every_one_new and not step.completes else None
