"""How many transfers at a time one host is worth: found from the rate at which files come, as the number goes up and down.

Latency alone does not tell: a large file takes longer than a small one on any host. So the rate decides. It *rises*, doubling, as long as
the rate does; then it takes the smallest number that had nearly the best rate, and *tries* a few more and a few less every now and then,
as hosts change. What it maximises is rate / number ** 0.1: twice as many transfers must bring 7 % more, or they only wait in the host's
queue. Where transfers are done in a moment nobody waits, and
the number is higher rather than lower, as we work in larger portions then.

A host that answers 429 or 503 begins again at one, quickly up to half of what it had, slowly (one for each round) from there.
Pure, but for the clock that it is given.
"""

import math
from typing import Literal

START = 32
_WORTH = 0.1
_DOUBLED = 0.14
"""The same exponent, and what is asked for while it rises or falls by two at a time: 10 %."""
_PROMPT_SECONDS = 0.05
"""A transfer that takes no longer holds nobody up, and a number that is too small costs more of our own time for each file."""
_PORTIONS = 0.3
"""So half as many must bring 20 % more there."""
_ENOUGH = 0.95
"""Of the best rate."""
_STEP, _MOST_STEP = 1.25, 2.0
_WINDOW_SECONDS, _WINDOW_ANSWERS = 0.2, 20
"""A rate is measured for so long, and over so many answers and three for each transfer, at least."""
_NOISE = 0.04
"""Of a rate, on a machine that is not ours alone."""
_MOST_QUIET = 16
_CHANGE = 0.3
"""Of a rate, as a logarithm: then the host is another one."""
_SURE = 1.5
"""Standard errors that a difference must have."""


class Limiter:
    """`limit` is for now. Not `adaptive`: `most`, but for hosts that answer 429 or 503."""

    def __init__(self, most: int, *, adaptive: bool = True) -> None:
        self.most, self._adaptive = most, adaptive
        self._mode: Literal["rise", "fall", "try", "recover"] = "rise"
        self._base = float(min(most, START) if adaptive else most)
        self._now = self._base
        """The base, or one that is tried."""
        self._known: list[tuple[float, float]] = []
        """Numbers and their rates, while it rises or falls."""
        self._trial = _Trial()
        self._ceiling = 0.0
        self.allow(most)
        self._skip = self.limit
        """Answers of transfers that began when the number was another one."""
        self._begun: float | None = None

    def allow(self, most: int) -> None:
        self.most = most
        if not self._adaptive and self._mode != "recover":
            self._now = self._base = float(most)
        self.limit = max(1, min(most, round(self._now)))

    def busy(self) -> None:
        """The host said 429 or 503."""
        if self._mode != "recover" or self._now > 1:
            self._ceiling, self._base = self.limit / 2, float(self.limit)
        self._mode, self._now, self._begun, self.limit = "recover", 1.0, None, 1

    def answered(self, work: float, under_way: int, now: float) -> None:
        """`work`: how much the answer was worth; nothing if it was for nothing. `under_way`: transfers, this one included."""
        if self._mode == "recover":
            self._recover()
        elif self._adaptive and self.most > 1:
            self._measure(work, under_way, now)

    def _recover(self) -> None:
        self._now = min(self.most, self._now + (1 if self._now < self._ceiling else 1 / self._now))
        if self._now >= min(self._base if self._adaptive else self.most, self.most):
            self._base = self._now
            self._try()
        self.allow(self.most)

    def _measure(self, work: float, under_way: int, now: float) -> None:
        if self._skip > 0:
            self._skip -= 1
            return
        if self._begun is None:
            self._begun, self._answers, self._full, self._work, self._squares = now, 0, 0, 0.0, 0.0
            return
        self._answers += 1
        self._full += under_way >= self.limit
        self._work += work
        self._squares += work * work
        seconds = now - self._begun
        if seconds < _WINDOW_SECONDS or self._answers < max(_WINDOW_ANSWERS, 3 * self.limit):
            return
        self._begun = None
        if self._full < 0.8 * self._answers or not self._work:
            return  # there was not enough to do, so this says nothing of the host
        # Of sizes that differ, of answers that come less regularly than a clock ticks and more than at random, of what else goes on.
        rate, variance = self._work / seconds, self._squares / self._work**2 - 0.75 / self._answers + _NOISE**2
        if self._mode != "try":
            self._searched(rate)
        else:
            self._tried(rate, variance)
        self._skip = under_way
        self.allow(self.most)

    def _searched(self, rate: float) -> None:
        """Up from the start as long as that is worth it; if it never was, down as long as that costs nothing."""
        known, number = self._known, float(self.limit)
        prompt = number < rate * _PROMPT_SECONDS
        worth = not known or rate >= known[-1][1] * (number / known[-1][0]) ** (-_PORTIONS if prompt else _DOUBLED)
        known.append((number, rate))
        if worth and self._mode == "rise" and number < self.most:
            self._now = number * 2
        elif self._mode == "rise" and len(known) == (1 if worth else 2):
            self._mode, self._known, self._now = "fall", [known[0]], known[0][0] / 2
        elif worth and self._mode == "fall" and number > 1:
            self._now = number / 2
        else:
            best = max(rate for _, rate in known)
            prompt_ones = [each for each, rate in known if rate >= 0.5**_PORTIONS * best]
            self._base = max(prompt_ones) if prompt else _smallest(sorted(known))
            self._try()

    def _tried(self, rate: float, variance: float) -> None:
        """The last of some windows with the base is compared with one with another number."""
        trial = self._trial
        if trial.before is None:
            trial.pause -= 1
            if trial.pause <= 0 or trial.is_another(rate):
                trial.before, self._now = (rate, variance), self._other(trial)
        else:
            gain, spread = trial.gains[trial.up]
            worth = -_PORTIONS if self._now < rate * _PROMPT_SECONDS else _WORTH
            gain += math.log(rate / trial.before[0]) - worth * math.log(self._now / self._base)
            spread += variance + trial.before[1]
            if gain > _SURE * math.sqrt(spread):
                self._base = self._now
                # Further in the same direction, and faster.
                self._try(up=trial.up, step=min(_MOST_STEP, trial.step * 1.2))
            else:
                trial.of_no_use(gain, spread)
                self._now = self._base

    def _other(self, trial: "_Trial") -> float:
        if trial.up:
            return min(float(self.most), max(self._base + 1, self._base * trial.step))
        return max(1.0, min(self._base - 1, self._base / trial.step))

    def _try(self, *, up: bool = True, step: float = _STEP) -> None:
        self._mode, self._now, self._known, self._trial, self._begun = "try", self._base, [], _Trial(up, step), None


class _Trial:
    """Of a few more and a few less than the base, in turn."""

    def __init__(self, up: bool = True, step: float = _STEP) -> None:
        self.up, self.step = up, step
        self.before: tuple[float, float] | None = None
        """Rate with the base, and its relative variance, when the other number is tried now."""
        self._usual: float | None = None
        """Rate with the base."""
        self.gains = {True: (0.0, 0.0), False: (0.0, 0.0)}
        """Up or down -> what it gained until now, and the variance of that."""
        self.pause, self._quiet = 2, 1
        """Windows until the next one; what was of no use is tried less and less often, as each time costs some."""

    def of_no_use(self, gain: float, spread: float) -> None:
        """Or not for sure: what looks good is tried again at once. What is bad for sure is forgotten, as hosts change."""
        self.gains[self.up] = (gain, spread) if gain > -_SURE * math.sqrt(spread) else (0.0, 0.0)
        self.before = None
        if gain > 0:
            self.pause = 1
        else:
            self._quiet = min(_MOST_QUIET, 2 * self._quiet)
            self.pause, self.up, self.step = self._quiet + 1, not self.up, _STEP

    def is_another(self, rate: float) -> bool:
        """The host is not what it was: no reason to be quiet any longer."""
        usual, self._usual = self._usual, rate if self._usual is None else 0.8 * self._usual + 0.2 * rate
        if usual is None or abs(math.log(rate / usual)) < _CHANGE:
            return False
        self._quiet, self._usual = 1, rate
        self.gains = {True: (0.0, 0.0), False: (0.0, 0.0)}
        return True


def _smallest(known: list[tuple[float, float]]) -> float:
    """The smallest number that has nearly the best rate, on lines between those that are known (numbers ascending)."""
    wanted = _ENOUGH * max(rate for _, rate in known)
    below = (0.0, 0.0)
    for number, rate in known:
        if rate >= wanted:
            return below[0] + (number - below[0]) * (wanted - below[1]) / (rate - below[1])
        below = number, rate
    raise AssertionError("the best one is enough")
