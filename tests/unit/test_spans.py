"""Whose bytes are whose, against a plain map of every byte."""

import random

import pytest

from export_service.spans import Span, Spans

SIZE = 60


@pytest.mark.parametrize("seed", range(200))
def test_no_byte_is_fetched_twice_at_once_and_the_frontier_is_what_is_here(seed: int) -> None:
    chance = random.Random(seed)
    kept = chance.choice([0, 0, 7, SIZE])
    spans, here = Spans(kept, SIZE), [index < kept for index in range(SIZE)]
    taken: list[Span] = []
    for _ in range(200):
        match chance.randrange(5):
            case 0:
                if span := spans.take(chance.randint(1, 20)):
                    assert not any(here[span.at : span.stop])
                    taken.append(span)
            case 1 if taken:
                span = chance.choice(taken)
                stop = span.stop
                if spans.extend(span, chance.randint(1, 20)):
                    assert span.stop > stop
            case 2 if taken:
                span = taken.pop(chance.randrange(len(taken)))
                spans.give_back(span)
            case _ if taken:
                span = chance.choice(taken)
                step = chance.randint(0, span.stop - span.at)
                here[span.at : span.at + step] = [True] * step
                span.at += step
        claimed = [index for span in taken for index in range(span.at, span.stop)]
        assert len(claimed) == len(set(claimed))
        assert not any(here[index] for index in claimed)
        missing = here.index(False) if False in here else SIZE
        assert spans.frontier == min([missing, *(span.at for span in taken)])
        assert spans.left == here.count(False)


def test_what_follows_one_can_be_everybodys_again() -> None:
    spans = Spans(0, SIZE)
    first, second = spans.take(10), spans.take(10)
    assert first is not None
    assert second is not None
    second.at = second.stop
    spans.give_back(second)
    assert not spans.extend(first, 10)
    first.at = 10
    spans.free_after(first)
    assert spans.frontier == 10
    assert spans.extend(first, SIZE)
    assert first.stop == SIZE
