"""A job's table entries, put back as its events say: for tables whose changelog was lost, or that are wrong.

The record travels on `results` like the events themselves: the tally, which alone may write its tables, takes it in their order, while
it runs. It counts nothing; who folds the topic again passes it over.
"""

import base64
from typing import Literal, Self

from pydantic import ValidationError, model_validator

from export_service import jobs as folding
from export_service.jobs import JobState, Step
from export_service.messages import JobEvent, Record
from export_service.readers import read_event
from export_service.shards import ReadShard, Shard, ShardKey, Shards


class JobRebuilt(Record):
    """`results`: what the events up to `through` add up to.

    `through` is an offset of the partition: no event of the job up to there is missing. `shards` are those of all runs, `run.number` ->
    base64 of the changelog's bytes. `run`: the replay that did it, as on `operations`.
    """

    type: Literal["JobRebuilt"] = "JobRebuilt"
    job_id: str
    attempt: int
    through: int
    state: JobState
    shards: dict[str, str]
    run: str

    @classmethod
    def of(cls, job_id: str, state: JobState, shards: Shards, through: int, run: str) -> Self:
        text = {f"{run_}.{number}": base64.b64encode(shard.to_bytes()).decode() for (run_, number), shard in shards.items()}
        state = state.but(snapshot_at=None)  # a snapshot is due at once
        return cls(job_id=job_id, attempt=state.attempt, through=through, state=state, shards=text, run=run)

    @model_validator(mode="after")
    def _readable(self) -> Self:
        self.entries()
        return self

    def entries(self) -> dict[ShardKey, Shard]:
        """Raises ValueError."""
        found: dict[ShardKey, Shard] = {}
        for key, text in self.shards.items():
            run, _, number = key.partition(".")
            found[int(run), int(number)] = Shard.from_bytes(base64.b64decode(text, validate=True))
        return found


def read(value: bytes) -> JobEvent | JobRebuilt:
    """A record of `results`, as the tally takes it. Raises Unreadable, pydantic.ValidationError."""
    try:
        return read_event(value)
    except ValidationError:
        if b'"JobRebuilt"' not in value:
            raise
    return JobRebuilt.model_validate_json(value)


def job_of(event: JobEvent | JobRebuilt) -> str:
    """The job's id."""
    return event.job_id if isinstance(event, JobRebuilt) else folding.job_of(event)


def put_back(state: JobState | None, rebuilt: JobRebuilt, offset: int, shard: ReadShard) -> Step:
    """What the record at `offset` does to the tables.

    Each entry goes back unless something later is folded into it: then this comes a second time, after a crash, and what the crash has lost
    is put back. From here on the entries are of this offset, as they have everything before it; a snapshot of it is newer than any.
    An end that the tables did not know is said: who was told before is not told again, as the ledger has his answer.
    Nothing goes back where an event came between: the record has it not, and would take it out. Who sent it sees that and sends another.
    """
    if state is not None and rebuilt.through < state.offset < offset:
        return Step(state)
    shards: dict[ShardKey, Shard] = {
        key: right._replace(offset=offset) for key, right in rebuilt.entries().items() if shard(*key).offset <= rebuilt.through
    }
    if state is not None and state.offset >= offset:
        # If nothing came after this, a crash may have come before what it says was confirmed.
        ends = state.offset == offset and state.status.terminal
        return Step(state, shards, completes=ends, cancels=ends and state.runs[-1].stopped)
    right = rebuilt.state.but(offset=offset)
    ends = right.status.terminal and (state is None or not state.status.terminal or state.attempt < right.attempt)
    return Step(right, shards, changed=True, completes=ends, cancels=ends and right.runs[-1].stopped)
