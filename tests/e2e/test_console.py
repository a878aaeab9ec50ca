"""The console that `dev up` starts: beside a stack, and ended with it. What its pages do is in tests/browser."""

import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from export_service.devstack import processes
from export_service.devstack.stack import Stack, show

pytestmark = pytest.mark.e2e


def answer(url: str, form: bytes | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, form)) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_it_comes_up_beside_a_stack_only_shows_and_ends_with_it(stack: Stack, tmp_path: Path) -> None:
    beside = Stack(tmp_path, env=stack.env)
    service = show(beside)
    try:
        base = f"http://127.0.0.1:{service.port}"
        deadline = time.monotonic() + 30
        while (said := answer(f"{base}/healthz"))[0] != 200:
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        assert "read-only" in answer(f"{base}/")[1]
        assert answer(f"{base}/jobs/x/do/cancel", b"")[0] == 403
        known = Stack.load(tmp_path)
        assert known is not None
        assert [each.up for each in known.services] == [True]
    finally:
        assert beside.stop() == ["console"]
    assert not processes.listens(service.port)
