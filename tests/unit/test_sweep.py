"""What killed workers leave in folders, and the command that removes it."""

import fcntl
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors.sweep import sweep_folder
from export_service.cli.main import registered

NAME = ".0123456789abcdef.part"
DAY = timedelta(days=1)


def old(path: Path, days: float = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345")
    at = time.time() - days * 86400
    os.utime(path, (at, at))
    return path


def before() -> datetime:
    return datetime.now(UTC) - DAY


def test_old_part_files_go_and_all_else_stays(tmp_path: Path) -> None:
    gone = [old(tmp_path / NAME), old(tmp_path / "a" / "b" / NAME)]
    kept = [
        old(tmp_path / "a" / ".0123456789abcdee.part", 0.5),
        old(tmp_path / "0123456789abcdef.part"),
        old(tmp_path / ".0123.part"),
        old(tmp_path / "report.csv"),
    ]
    assert {left.uri for left in sweep_folder(tmp_path, before(), remove=False)} == {path.as_uri() for path in gone}
    assert all(path.exists() for path in gone)
    assert sum(left.size for left in sweep_folder(tmp_path, before(), remove=True)) == 10
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)
    assert list(sweep_folder(tmp_path, before(), remove=True)) == []


def test_a_part_that_somebody_goes_on_with_stays(tmp_path: Path) -> None:
    path = old(tmp_path / NAME)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert list(sweep_folder(tmp_path, before(), remove=True)) == []
    assert path.exists()
    assert len(list(sweep_folder(tmp_path, before(), remove=True))) == 1


def test_a_link_to_somewhere_else_is_not_followed(tmp_path: Path) -> None:
    target = old(tmp_path / "kept")
    folder = tmp_path / "swept"
    folder.mkdir()
    (folder / NAME).symlink_to(target)
    assert list(sweep_folder(folder, before(), remove=True)) == []
    assert target.exists()


def test_the_command_says_what_goes(tmp_path: Path) -> None:
    app = registered()
    path = old(tmp_path / NAME)
    runner = CliRunner()
    dry = runner.invoke(app, ["sweep", str(tmp_path), "--dry-run"])
    assert (dry.exit_code, dry.stdout.splitlines()[-1]) == (0, "1 would go, 0.0 MB")
    assert path.as_uri() in dry.stdout
    assert path.exists()
    assert runner.invoke(app, ["sweep", str(tmp_path), "--older-than", "3d"]).stdout == "0 removed, 0.0 MB\n"
    done = runner.invoke(app, ["sweep", tmp_path.as_uri(), "--json"])
    told = json.loads(done.stdout)
    assert (told["uri"], told["bytes"], told["removed"]) == (path.as_uri(), 5, True)
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["s3:///x"], "names no bucket"),
        (["ftp://h/x"], "is neither"),
        (["/does/not/exist"], "there is no folder"),
        (["/tmp", "--older-than", "5x"], "is no time"),
    ],
)
def test_what_cannot_be_swept_is_said(arguments: list[str], says: str) -> None:
    app = registered()
    result = CliRunner().invoke(app, ["sweep", *arguments])
    assert result.exit_code == 2
    assert says in " ".join(result.output.replace("│", " ").split())
