"""The sockets that libcurl waits for: told of what is ready, whether they are let go of, closed or another's by now."""

import os
import select
import socket
from collections.abc import Iterator

import pytest

from connectors.watched import EpollWatched, SelectorWatched, Watched

READ, WRITE = 1, 2


@pytest.fixture(params=[EpollWatched, SelectorWatched])
def sockets(request: pytest.FixtureRequest) -> Iterator[Watched]:
    if request.param is EpollWatched and not hasattr(select, "epoll"):
        pytest.skip("no epoll here")
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_what_is_ready_is_told_and_wakes_who_watches_all(sockets: Watched, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    sockets.watch(ours.fileno(), READ)
    assert sockets.ready() == []
    theirs.send(b"x")
    assert select.select([sockets.fileno()], [], [], 5)[0]
    assert sockets.ready() == [(ours.fileno(), READ)]
    sockets.watch(ours.fileno(), READ | WRITE)
    assert sockets.ready() == [(ours.fileno(), READ | WRITE)]
    sockets.watch(ours.fileno(), WRITE)
    assert sockets.ready() == [(ours.fileno(), WRITE)]


def test_what_was_let_go_of_is_not_told_and_does_not_wake_for_ever(
    sockets: Watched, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    sockets.watch(ours.fileno(), READ)
    sockets.let_go(ours.fileno())
    theirs.close()
    assert sockets.ready() == []
    assert not select.select([sockets.fileno()], [], [], 0)[0]
    sockets.watch(ours.fileno(), READ)
    ((fd, events),) = sockets.ready()
    assert fd == ours.fileno()
    assert events & READ, "the end is something to read"


def test_a_number_that_is_another_sockets_by_now(sockets: Watched, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    number = ours.fileno()
    sockets.watch(number, READ)
    sockets.let_go(number)
    ours.close()
    theirs.close()
    other, its_other = socket.socketpair()
    with other, its_other:
        if other.fileno() != number:
            os.dup2(other.fileno(), number)
        its_other.send(b"x")
        sockets.watch(number, READ)
        assert sockets.ready() == [(number, READ)]
        assert os.read(number, 2) == b"x"
        assert sockets.ready() == []
        if other.fileno() != number:
            os.close(number)


def test_letting_go_of_what_is_not_watched_is_no_error(sockets: Watched) -> None:
    sockets.let_go(12_345)
    assert sockets.ready() == []
