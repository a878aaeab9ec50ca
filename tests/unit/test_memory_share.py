"""Memory that is shared: nobody gets what is not there, nobody waits for ever, and who gives up gives back."""

import asyncio
import random

from export_service.memory_share import MemoryShare


async def test_nobody_has_more_than_there_is_and_everybody_gets_a_turn() -> None:
    memory, held, most, done = MemoryShare(100), 0, 0, 0

    async def some(size: int) -> None:
        nonlocal held, most, done
        taken = await memory.take(size)
        held += taken
        most = max(most, held)
        await asyncio.sleep(0)
        held -= taken
        memory.give_back(taken)
        done += 1

    rng = random.Random(1)
    tasks = [asyncio.create_task(some(rng.randint(0, 300))) for _ in range(200)]
    for task in rng.sample(tasks, 50):
        asyncio.get_running_loop().call_later(rng.random() / 1000, task.cancel)
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert done >= 150
    assert 0 < most <= 100
    assert memory._left == 100 - held


async def test_who_came_first_is_not_passed_by_smaller_ones() -> None:
    memory = MemoryShare(10)
    first = await memory.take(6)
    large, small = asyncio.create_task(memory.take(8)), asyncio.create_task(memory.take(1))
    await asyncio.sleep(0)
    assert not small.done()
    memory.give_back(first)
    assert (await large, await small) == (8, 1)


async def test_who_gives_up_in_line_lets_those_behind_him_go_on() -> None:
    memory = MemoryShare(10)
    await memory.take(6)
    large, small = asyncio.create_task(memory.take(8)), asyncio.create_task(memory.take(4))
    await asyncio.sleep(0)
    large.cancel()
    assert await asyncio.wait_for(small, 1) == 4
