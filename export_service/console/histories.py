"""The two parts of a job's page that have to be read from topics: the outcome of each task, and how it came there."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from markupsafe import Markup, escape

from export_service.console import pictures
from export_service.console.costly import Costly
from export_service.console.seen_jobs import SeenJobs
from export_service.failures import ExportError
from export_service.history.explanation import Explanation
from export_service.history.moves import grouped
from export_service.settings import Settings

_LONGEST = 100_000
"""Records of its partition that a job's history may lie among, to be read for a page."""
_COUNTS, _TIMELINE = 20, 200
_SECONDS = 5.0
_TABLES_SECONDS = 2.0
"""After which the tables' changelogs have what a snapshot has: the tally writes them twice a second."""
_ANSWER_SECONDS = 60.0


class _TooLong(ExportError):
    pass


class Histories:
    """`part` is HTML; what cannot be read is said in it."""

    def __init__(self, settings: Settings, jobs: SeenJobs, render: Callable[..., str]) -> None:
        self._settings, self._jobs, self._render = settings, jobs, render
        self._parts = {"grid": Costly(self._grid, _SECONDS), "history": Costly(self._history, _SECONDS)}

    async def part(self, name: str, job_id: str) -> tuple[str, bool]:
        """Its HTML, and whether it may be of before the job moved last, so that one should ask again."""
        known, moved = self._jobs.get(job_id), self._jobs.moved_at(job_id)
        if known is None:
            # Of an id that somebody has made up a whole partition would be read.
            why = f"No snapshot of it is known here. If it is a job: export-service explain {job_id}"
            return self._render("parts/problem.html", message=why), False
        # A job that has ended stays as it is, but for its answer, which comes a moment later.
        settled = moved + _ANSWER_SECONDS if known.status.terminal else float("inf")
        try:
            found = await self._parts[name].get(job_id, settled)
        except ExportError as error:
            return self._render("parts/problem.html", message=str(error)), False
        return found.value, found.at < moved + _TABLES_SECONDS

    async def _grid(self, job_id: str) -> str:
        from streams.reading import reader
        from streams.stuck_jobs import tables_of
        from streams.topics import topics

        async with reader(self._settings) as consumer:
            jobs, shards = await tables_of(consumer, self._settings, topics(self._settings), [job_id])
        state = jobs.get(job_id)
        if state is None:
            return self._render("parts/grid.html", grid=None, why="The tally's tables have no job of this id.")
        if not state.total:
            why = "Its list of files is empty." if state.total == 0 else "Its list of files is not read to its end yet."
            return self._render("parts/grid.html", grid=None, why=why)
        found = pictures.grid(state.total, state.run, partial(shards.get, job_id))
        return self._render("parts/grid.html", grid=found, why=None)

    async def _history(self, job_id: str) -> str:
        from export_service.cli.explain import explained

        known = self._jobs.get(job_id)
        if known is not None and known.first_offset is not None and known.version - known.first_offset > _LONGEST:
            among = known.version - known.first_offset
            raise _TooLong(
                f"Its history lies among {among:,} records, which takes too long for a page: export-service explain {job_id}"
            )
        found = await explained(
            self._settings, job_id, datetime.now(UTC), now=True, table=True, progress=lambda *_: None, known=known
        )
        return self._render("parts/history.html", **_values(found))


def _values(found: Explanation) -> dict[str, object]:
    return {
        "found": found,
        "bars": pictures.waterfall(found.stages, found.at),
        "timeline": found.timeline[:_TIMELINE],
        "counts": grouped(found.counts, _COUNTS),
        "place": place,
    }


def place(text: str) -> Markup:
    """`results:0:12`, or `results:0:12-20`, as a link to that record."""
    topic, partition, offsets = text.split(":")
    offset = offsets.partition("-")[0]
    return Markup('<a class="place" href="/topics/{}?partition={}&amp;offset={}">{}</a>').format(
        escape(topic), escape(partition), escape(offset), escape(text)
    )
