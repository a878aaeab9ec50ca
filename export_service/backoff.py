"""Pauses between tries: exponential with full jitter, so that many workers do not come back at the same moment."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from export_service.failures import Unavailable


def pauses(first: float, most: float) -> Iterator[float]:
    """Seconds to wait before the 2nd, 3rd, … try: uniform in (0, first * 2**n], at most `most`."""
    ceiling = first
    while True:
        yield random.uniform(0, min(ceiling, most))
        ceiling = min(ceiling * 2, most)


T = TypeVar("T")


async def until_available(call: Callable[[], Awaitable[T]], log: Any, *, first: float = 0.2, most: float = 30) -> T:
    """Call again until the dependency answers; says once that it does not, and once that it does again."""
    told = False
    for pause in pauses(first, most):
        try:
            value = await call()
        except Unavailable as error:
            if not told:
                log.warning(str(error), setting=error.setting)
            told = True
            await asyncio.sleep(pause)
            continue
        if told:
            log.info("Dependency answers again")
        return value
    raise AssertionError("pauses never end")
