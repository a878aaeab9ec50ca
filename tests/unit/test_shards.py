"""Bitmaps and their bytes: what is on the changelog is read by later versions, so its layout is written down here."""

import pytest

from export_service.shards import Shard, bitmap_from_text, bitmap_to_text


def test_the_better_outcome_of_a_task_counts_whichever_comes_first() -> None:
    before = Shard(succeeded=0b000_0111, failed=0b001_1000, cancelled=0b110_0000, size=5, offset=9)
    assert before.join(0b010_1001, 0b100_0010, 0b001_0100, 7, 10) == Shard(0b010_1111, 0b101_0000, 0, 12, 10)
    assert before.join(0, 0, 1 << 7, 0, 11) == Shard(0b000_0111, 0b001_1000, 0b1110_0000, 5, 11)


def test_what_changes_nothing_leaves_the_shard_as_it_was() -> None:
    before = Shard(succeeded=0b001, failed=0b010, cancelled=0b100, size=5, offset=9)
    assert before.join(0b001, 0b011, 0b111, 0, 10) is before


def test_what_is_beyond_the_list_is_cut_off() -> None:
    whole = Shard(0b1001, 0b0100, 0b10010, 5, 9)
    assert whole.within(3) == Shard(0b001, 0b100, 0b010, 5, 9)
    assert whole.within(0) == whole.within(-7) == Shard(0, 0, 0, 5, 9)


def test_successes_are_kept_for_the_next_run() -> None:
    assert Shard(0b001, 0b010, 0b100, 5, 9).kept() == Shard(0b001, 0, 0, 5, 9)


def test_the_layout_in_the_changelog() -> None:
    shard = Shard(succeeded=1 << 8, failed=0, cancelled=0b101, size=258, offset=-1)
    raw = bytes.fromhex("01 05 0201000000000000 ffffffffffffffff 0200 0001 0100 05")
    assert shard.to_bytes() == raw
    assert Shard.from_bytes(raw) == shard
    large = Shard(failed=1 << 8191, size=2**63 - 1, offset=2**63 - 1)
    assert large.to_bytes()[:20] == bytes.fromhex("01 02 ffffffffffffff7f ffffffffffffff7f 0004")
    assert Shard.from_bytes(large.to_bytes()) == large
    assert Shard().to_bytes() == bytes.fromhex("01 00 0000000000000000 ffffffffffffffff")


@pytest.mark.parametrize(("raw", "what"), [(b"", "empty"), (b"\x02" + bytes(17), "02"), (b"\x01" + bytes(16), "01")])
def test_another_format_and_half_a_shard_are_refused(raw: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=f"^shard format {what} is not known to this version$"):
        Shard.from_bytes(raw)


def test_bitmaps_in_records() -> None:
    assert [bitmap_to_text(bits) for bits in (0, 1, 1 << 8)] == ["", "AQ==", "AAE="]
    assert [bitmap_from_text(text) for text in ("", "AQ==", "AAE=")] == [0, 1, 1 << 8]
