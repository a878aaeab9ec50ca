"""The part of a large file: whose it is, what it is of, and that no final name is ever that of one being written."""

from pathlib import Path
from typing import Any

import pytest

from connectors.local_store import LocalPart, can_be_unnamed
from export_service.failures import TransferError


@pytest.fixture(autouse=True)
def _remembering(tmp_path: Path) -> None:
    if not can_be_unnamed(str(tmp_path)):
        pytest.skip("this file system cannot name a file by its descriptor; parts are not kept there")


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _part(folder: Path, executor: Any = None) -> LocalPart:
    return LocalPart("out.bin", str(folder), "out.bin", "http://h/f", executor, can_be_unnamed(str(folder)))


def test_two_who_write_one_file_write_to_two_and_both_may_be_done(tmp_path: Path) -> None:
    one, two, three = (_part(tmp_path) for _ in range(3))
    first, second = one.open(4, '"1"'), two.open(4, '"1"')
    first.write(0, [b"ab"], 0)
    second.write(0, [b"abcd"], 0)
    two.finish(second)
    two.close(4)
    assert (tmp_path / "out.bin").read_bytes() == b"abcd"
    assert names(tmp_path) == ["out.bin"], "who is done leaves no part, also not another's"
    third = three.open(4, '"1"')
    third.write(0, [b"x"], 0)
    first.write(2, [b"cd"], 2)
    with pytest.raises(TransferError, match="another worker") as raised:
        one.finish(first)
    assert raised.value.retryable
    one.close(4)
    assert (tmp_path / "out.bin").read_bytes() == b"abcd", "and never what somebody else has of it"
    three.forget()
    three.close(1)
    assert names(tmp_path) == ["out.bin"]


def test_what_is_kept_is_of_the_same_version_length_boot_and_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave() -> None:
        part = _part(tmp_path)
        file = part.open(100, '"1"')
        file.write(0, [b"x" * 50], 0)
        part.close(50)

    def found(size: int, validator: str) -> int:
        part = _part(tmp_path)
        kept = part.open(size, validator).kept
        part.close(None)
        return kept

    leave()
    assert found(100, '"1"') == 50
    assert found(100, '"1"') == 50, "looking changes nothing"
    assert found(100, '"2"') == 0
    leave()
    assert found(99, '"1"') == 0
    leave()
    monkeypatch.setattr("connectors.part_file._boot", lambda: "another")
    assert found(100, '"1"') == 0
    monkeypatch.undo()
    leave()
    with Path(_part(tmp_path).path).open("ab") as file:
        file.write(b"!")
    assert found(100, '"1"') == 0


def test_a_part_that_has_its_final_name_already_is_not_written_to(tmp_path: Path) -> None:
    """Left by a worker that died between giving the one name and taking the other."""
    part = _part(tmp_path)
    file = part.open(4, '"1"')
    file.write(0, [b"abcd"], 0)
    file.name(str(tmp_path / "out.bin"))
    file.close()
    again = _part(tmp_path)
    second = again.open(4, '"1"')
    assert second.kept == 0
    second.write(0, [b"ZZ"], 0)
    assert (tmp_path / "out.bin").read_bytes() == b"abcd"
    again.forget()
    again.close(None)
