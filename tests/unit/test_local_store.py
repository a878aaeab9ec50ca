"""A folder as destination: whole files or none, whatever ends the worker."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from connectors.local_store import LocalFolder, can_be_unnamed
from export_service.failures import TransferError

LARGE = b"x" * (3 * 1024 * 1024)
KILLED = """
import asyncio, os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from connectors.local_store import LocalFolder
async def main():
    async with LocalFolder(Path(sys.argv[1]), ThreadPoolExecutor(1)).create("a/large") as sink:
        await sink.write(b"x" * (3 << 20))
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.fixture(params=["unnamed", "named"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalFolder:
    """A folder whose file system can, or cannot, hold a file without a name."""
    if request.param == "named":
        monkeypatch.setattr("connectors.local_store.can_be_unnamed", lambda _: False)
    return LocalFolder(tmp_path, ThreadPoolExecutor(1))


def listing(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()}


async def test_a_file_is_there_when_it_is_whole_and_replaces_an_older_one(folder: LocalFolder, tmp_path: Path) -> None:
    for content in (LARGE, b"short", b""):
        async with folder.create("a/file") as sink:
            await sink.write(content)
            assert listing(tmp_path).get("a/file") != len(content)
        assert listing(tmp_path) == {"a/file": len(content)}
    folder.put("a/file", b"at once")
    assert (tmp_path / "a/file").read_bytes() == b"at once"
    assert (tmp_path / "a/file").stat().st_mode & 0o777 == 0o644 & ~_umask()


async def test_a_write_that_fails_leaves_the_older_file_and_nothing_else(folder: LocalFolder, tmp_path: Path) -> None:
    folder.put("file", b"older")
    with pytest.raises(RuntimeError):
        async with folder.create("file") as sink:
            await sink.write(LARGE)
            raise RuntimeError
    assert listing(tmp_path) == {"file": 5}
    assert (tmp_path / "file").read_bytes() == b"older"


async def test_a_folder_of_that_name_is_a_failure_that_leaves_nothing(folder: LocalFolder, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(TransferError, match="DestinationDenied"):
        async with folder.create("taken") as sink:
            await sink.write(b"x")
    assert listing(tmp_path) == {}


async def test_a_folder_that_was_removed_in_between_is_made_again(folder: LocalFolder, tmp_path: Path) -> None:
    folder.put("a/one", b"1")
    (tmp_path / "a/one").unlink()
    (tmp_path / "a").rmdir()
    folder.put("a/two", b"22")
    assert listing(tmp_path) == {"a/two": 2}


def test_a_worker_that_is_killed_while_it_writes_leaves_nothing(tmp_path: Path) -> None:
    if not can_be_unnamed(str(tmp_path)):
        pytest.skip("this file system cannot hold a file without a name; there a hidden .part file is left")
    died = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert died.returncode == -9
    assert (tmp_path / "a").is_dir()
    assert listing(tmp_path) == {}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
