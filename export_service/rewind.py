"""What is done when consumer groups go back: to which offsets, and which jobs the tally counts again from their first event.

Offsets alone are not enough for the tally: its tables say of each job up to where it is counted, so what is read again changes nothing.
So the jobs that have moved since are taken out of the tables, and the group goes back to the first event of the first of them. All other
jobs keep their entries. Entries go by tombstones on the changelogs: every local copy and every standby follows those by itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from export_service.jobs import JobState
from export_service.messages import iso_millis

TOPICS: Mapping[str, str] = {
    "plan": "requests",
    "download": "tasks",
    "tally": "results",
    "callback": "completions",
    "snapshot": "snapshots",
}
"""Role that commits offsets -> short name of its topic."""
DEFAULT = ("tally", "callback", "snapshot")
"""What costs no download."""
_SHOWN = 20
_DANGERS = {
    "plan": "requests are looked at again; those that are planned are passed over",
    "download": "every batch of these is downloaded again, of jobs that have ended too, and files are replaced",
    "tally": (
        "until it has caught up, snapshots show these jobs as they once were, and none of them ends, is answered or is cancelled; "
        "completions and cancellations are published again as they were"
    ),
    "callback": "reports are written again; no token is answered a second time, and its answer is published on `callbacks` again",
    "snapshot": "the table keeps what it has unless it is older; a damaged item of the same version stays as it is",
}


@dataclass(frozen=True)
class Move:
    """One partition of a role's topic. `target` is where its group goes on; `committed` None: it never was there, and will begin at 0."""

    role: str
    topic: str
    partition: int
    begin: int
    end: int
    committed: int | None
    target: int

    @property
    def moves(self) -> bool:
        return self.committed is not None and self.target < self.committed

    def __str__(self) -> str:
        place = f"{self.role:<9} {self.topic}:{self.partition}"
        if self.committed is None or not self.moves:
            return f"{place}  stays at {'the beginning' if self.committed is None else self.committed}"
        return f"{place}  {self.committed} -> {self.target}  ({self.committed - self.target} records again)"


@dataclass(frozen=True)
class Again:
    """Jobs of one partition that are counted again. `first`: their first event, None if there is none; `cut` stay as they are."""

    jobs: tuple[str, ...]
    cut: tuple[str, ...]
    first: int | None


def counted_again(states: Mapping[str, JobState], wanted: Iterable[str], begin: int) -> Again:
    """Args:
    states: of a partition.
    wanted: jobs of it.
    begin: first offset of `results` that is still there.
    """
    jobs, cut, firsts = [], [], []
    for job_id in sorted(wanted):
        state = states[job_id]
        # Of a list that was read anew a state that an earlier version wrote does not say where the job began.
        first = state.first_offset if state.plan == 1 else state.origin or 0
        if first < begin:
            cut.append(job_id)
        else:
            jobs.append(job_id)
            firsts.append(first)
    return Again(tuple(jobs), tuple(cut), min(firsts, default=None))


def moved_since(states: Mapping[str, JobState], offset: int) -> list[str]:
    return [job_id for job_id, state in states.items() if state.offset >= offset]


@dataclass(frozen=True)
class Plan:
    """`entries`: (table, partition, key) to take out. `to` None: the beginning, or one job. `unfinished`: an earlier one that broke off."""

    moves: Sequence[Move]
    jobs: Sequence[str] = ()
    cut: Sequence[str] = ()
    entries: Sequence[tuple[str, int, bytes]] = ()
    to: datetime | None = None
    unfinished: str | None = None

    @property
    def moving(self) -> list[Move]:
        return [move for move in self.moves if move.moves]

    def as_text(self, app: str) -> str:
        roles = dict.fromkeys(move.role for move in self.moves)
        lines = [f"{app} goes back to {iso_millis(self.to) if self.to else 'the first record that is needed'}"]
        lines += [f"  {move}" for move in self.moves]
        if "tally" in roles:
            lines.append(
                f"  tables    {len(self.jobs)} jobs are counted again from their first event, {len(self.entries)} entries go"
            )
        lines += [f"  kept      job {job_id}: retention has removed its first events" for job_id in self.cut[:_SHOWN]]
        lines += [f"  kept      {len(self.cut) - _SHOWN} more of these; --json has all"] if len(self.cut) > _SHOWN else []
        lines += [f"  finishes  the rewind that {self.unfinished} began"] if self.unfinished else []
        lines += ["Mind that"]
        lines += [f"  {role}: {_DANGERS[role]}" for role in roles]
        return "\n".join(lines) + "\n"

    def as_object(self) -> dict[str, Any]:
        return {
            "offsets": [
                {"role": each.role, "topic": each.topic, "partition": each.partition, "from": each.committed, "to": each.target}
                for each in self.moving
            ],
            "jobs": list(self.jobs),
            "kept": list(self.cut),
            "entries": len(self.entries),
        }
