"""Recorded events, folded again with the tally's own code, in tables and outputs of this process alone: nothing of it can reach anybody.

The same on any day, as the records' times are the only clock of the fold.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta

from pydantic import ValidationError

from agents.counter import Counter, Happened
from export_service import jobs as folding
from export_service.history.moves import Moved
from export_service.history.records import body
from export_service.jobs import JobState, all_numbers
from export_service.messages import JobCompleted, from_millis
from export_service.readers import Unreadable, read_event
from export_service.shards import Shard, ShardKey
from export_service.verify.evidence import Raw
from streams.ack_window import Place
from streams.steps import Incoming
from streams.topics import Topics
from tables.decoded import Values
from tables.jobs import Jobs
from tables.shards import Shards

_NEVER = timedelta(days=36_500)
"""Between two snapshots that say nothing but progress."""


class Refold:
    """Attributes: `completions`, (job, attempt) -> what the tally says when it ends; `unread`: places of records that are no events."""

    def __init__(self, names: Topics) -> None:
        self._jobs_table, self._shards_table = Values(), Values()
        self._jobs, self._shards = Jobs(self._jobs_table), Shards(self._shards_table)
        self._counter = Counter(self._jobs, self._shards, names, _NEVER)
        self.completions: dict[tuple[str, int], JobCompleted] = {}
        self.unread: list[str] = []

    async def apply(self, raw: Raw) -> Moved | None:
        """None: no event, and the tally too has put it aside. Raises ExportError for a version from the future."""
        if (found := body(raw)) is not None and found.get("type") == "JobRebuilt":
            return None  # says again what the events say
        try:
            event = read_event(raw.value or b"")
        except (ValidationError, Unreadable):
            self.unread.append(raw.place)
            return None
        job_id = folding.job_of(event)
        before = self._jobs.get(job_id)
        record = Incoming(Place(raw.topic, raw.partition), raw.offset, from_millis(raw.timestamp), raw.key, raw.value)
        happened = Happened(event, record, [])
        self._counter.count(job_id, [happened])
        for _, output in happened.outputs:
            if isinstance(output, JobCompleted):
                # As a reader of the topic has it.
                self.completions[job_id, output.snapshot.attempt] = JobCompleted.model_validate_json(output.to_bytes())
        after = self._jobs.get(job_id)
        # An event that changes nothing of a job that nobody knows is not kept: a stale one, say, that came first.
        return None if after is None else Moved(raw, event, before, after)

    async def all(self, records: Iterable[Raw]) -> list[Moved]:
        return [moved for raw in records if (moved := await self.apply(raw)) is not None]

    def state(self, job_id: str) -> JobState | None:
        return self._jobs.get(job_id)

    def shard(self, job_id: str, run: int, number: int) -> Shard:
        return self._shards.get(job_id, run, number)

    def shards(self, job_id: str, state: JobState) -> Mapping[ShardKey, Shard]:
        """Those of a job: of its newest run all, of the runs before it those that any outcome is in."""
        most = max(len(state.tallies), len(all_numbers(state)))
        found = {(run.attempt, number): self.shard(job_id, run.attempt, number) for run in state.runs for number in range(most)}
        return {key: shard for key, shard in found.items() if key[0] == state.run or shard.offset >= 0}

    @property
    def jobs(self) -> list[str]:
        return [key.decode() for key in self._jobs_table]
