"""What may be done from a page, by the functions that the command line uses: `plan` changes nothing and is shown first, `do` does it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from export_service.cli.jobs import ask_for_end, known_snapshot
from export_service.cli.replay import Mode
from export_service.cli.replay_text import actions_text
from export_service.history.selection import Selection
from export_service.redrive import Changes
from export_service.settings import Settings


class Plan(NamedTuple):
    """`can`: there is something to do."""

    text: str
    can: bool


class Action(NamedTuple):
    """`plan` and `do` are given a job's id, or a dead letter's; `do` also why, and returns what was done. Both raise ExportError."""

    title: str
    about: str
    button: str
    plan: Callable[[Settings, str], Awaitable[Plan]]
    do: Callable[[Settings, str, str | None], Awaitable[str]]


async def _plan_redrive(settings: Settings, job_id: str) -> Plan:
    from streams.failed_jobs import load

    [job] = await load(settings, [job_id])
    refusal = job.refusal()
    return Plan(refusal or job.as_text(), refusal is None)


async def _redrive(settings: Settings, job_id: str, why: str | None) -> str:
    from streams.failed_jobs import load, run_again

    jobs = await load(settings, [job_id])
    if refusal := jobs[0].refusal():
        return f"Nothing was changed: {refusal}"
    [(_, attempt)] = await run_again(settings, jobs, Changes(), why)
    return f"Runs as attempt {attempt}."


async def _plan_cancel(_: Settings, job_id: str) -> Plan:
    snapshot = await known_snapshot(job_id)
    if snapshot.status.terminal:
        return Plan(f"job {job_id} had ended already: {snapshot.status.value}", False)
    ended = snapshot.completed_tasks + snapshot.failed_tasks
    told = "The waiting state is told ExportCancelled." if snapshot.has_task_token else "Nobody waits for it."
    of = f"{snapshot.total_tasks:,}" if snapshot.total_tasks is not None else "as yet unknown"
    return Plan(f"job {job_id}  {snapshot.status.value}  {ended:,} of {of} tasks have ended, the rest are given up\n{told}\n", True)


async def _cancel(settings: Settings, job_id: str, why: str | None) -> str:
    if (await known_snapshot(job_id)).status.terminal:
        return "Nothing was changed: it had ended already."
    await ask_for_end(settings, job_id, why or "cancelled by an operator")
    return "Asked for its end."


def _replay(mode: Literal["rebuild", "re-emit"]) -> tuple[Callable[[Settings, str], Awaitable[Plan]], "_Do"]:
    async def plan(settings: Settings, job_id: str) -> Plan:
        from streams.prepared_replay import prepared

        async with prepared(settings, Selection((job_id,)), mode) as ready:
            return Plan(actions_text(Mode(mode), ready.planned, resumed=0), bool(ready.todo))

    async def do(settings: Settings, job_id: str, _why: str | None) -> str:
        from streams.prepared_replay import prepared

        async with prepared(settings, Selection((job_id,)), mode) as ready:
            made = [each async for each in ready.send(1, 10)] if ready.todo else []
        if not made:
            return "Nothing was changed: there is nothing to do."
        sent = [each for each in made if each.place]
        more = "" if ready.taken else " The tally has not taken it yet."
        return f"Replay {ready.run}: {len(sent)} sent, {len(made) - len(sent)} passed over.{more}"

    return plan, do


_Do = Callable[[Settings, str, str | None], Awaitable[str]]

JOB_ACTIONS = {
    "redrive": Action(
        "Run again what has failed",
        "A new attempt keeps all that has succeeded and tries the rest. Nobody is called back. As export-service redrive.",
        "Run it again",
        _plan_redrive,
        _redrive,
    ),
    "cancel": Action(
        "End the job now",
        "Nothing more is downloaded; what is there stays. As export-service cancel.",
        "Cancel the job",
        _plan_cancel,
        _cancel,
    ),
    "re-emit": Action(
        "Answer again",
        "Its completion is sent again if its task token was never answered. As export-service replay --mode re-emit.",
        "Send its completion",
        *_replay("re-emit"),
    ),
    "rebuild": Action(
        "Put its tables right",
        "Its events are folded again; table entries and item that differ are put right. As export-service replay --mode rebuild.",
        "Rebuild",
        *_replay("rebuild"),
    ),
}


async def _plan_letter(settings: Settings, letter: str) -> Plan:
    from export_service.cli.dead_letters import named, planned_text, sendings

    def look() -> Plan:
        planned, refused = sendings(settings, named(settings, [letter]), again=False, edit=None)
        return Plan("".join(map(planned_text, planned)) + "".join(f"{text}\n" for text in refused), bool(planned))

    # Commands have an event loop of their own.
    return await asyncio.to_thread(look)


async def _send_letter(settings: Settings, letter: str, why: str | None) -> str:
    from export_service.cli.dead_letters import named, sendings
    from streams.letters import send

    planned, refused = await asyncio.to_thread(lambda: sendings(settings, named(settings, [letter]), again=False, edit=None))
    if not planned:
        return f"Nothing was sent: {refused[0]}"
    await send(settings, planned, why)
    return f"Dead letter {letter} was sent again."


async def _plan_discard(settings: Settings, letter: str) -> Plan:
    from export_service.cli.dead_letters import named, table

    kept = await asyncio.to_thread(named, settings, [letter])
    return Plan(table(kept, "open"), kept[0].state in ("open", "redriving"))


async def _discard(settings: Settings, letter: str, why: str | None) -> str:
    from export_service.cli.dead_letters import named
    from streams.letters import discard

    kept = await asyncio.to_thread(named, settings, [letter])
    if kept[0].state not in ("open", "redriving"):
        return f"Nothing was changed: dead letter {letter} is {kept[0].state} already."
    await discard(settings, kept, why)
    return f"Dead letter {letter} was put away."


LETTER_ACTIONS = {
    "redrive": Action(
        "Send a dead letter again",
        "Once, to where it came from, with key, value and headers as they were. As export-service dead-letters redrive.",
        "Send it",
        _plan_letter,
        _send_letter,
    ),
    "discard": Action(
        "Put a dead letter away",
        "It is marked as dealt with. Nothing is deleted. As export-service dead-letters discard.",
        "Put it away",
        _plan_discard,
        _discard,
    ),
}
