"""The fenced blocks of the docs, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "deploy/README.md", *sorted((ROOT / "docs").rglob("*.md")))
DEV = {"test", "chaos", "mutation", "release", "screenshots", "docs", "benchmark"}
"""What ./dev does by itself; all else it hands to export-service."""

SESSION = "docs/start.md"
BESIDE = (
    "config",
    "status",
    "jobs",
    "watch",
    "workers",
    "explain",
    "export",
    "replay",
    "verify",
    "topics",
    "limits",
    "dead-letters list",
    "doctor",
    "sweep s3://exports/",
    "sweep s3://exports/team/",
)
"""First words of commands that are run wherever the docs have them."""
NOT_BESIDE = ("doctor --role download",)
"""Of these, what would need more."""

_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`((?:export-service|\./dev) [^`\n]+)`")
_COMMENT = re.compile(r"(^|\s)#\s.*$")
_QUOTED = re.compile(r"'[^']*'|\"[^\"$]*\"")
_OPERATOR = re.compile(r"\"?\$\(|\)\"?|&&|\|\||[|;&]|\d?>+\s*\S+|&\d")
_BEFORE = re.compile(r"^(?:\w+=\S*\s*|(?:eval|until|do|done)\b\s*)")


class Block(NamedTuple):
    page: str
    language: str
    text: str


class Command(NamedTuple):
    """`words`: without redirections; the first is the program."""

    page: str
    words: tuple[str, ...]

    @property
    def ours(self) -> tuple[str, ...] | None:
        """Words after `export-service`; None if it is another program's, or ./dev's own."""
        if self.words[0] == "export-service" or (self.words[0] == "./dev" and self.words[1:2] and self.words[1] not in DEV):
            return self.words[1:]
        return None


def blocks() -> list[Block]:
    return [
        Block(path.relative_to(ROOT).as_posix(), found[1], found[2])
        for path in PAGES
        for found in _FENCE.finditer(path.read_text())
    ]


def commands(block: Block) -> Iterator[Command]:
    """Those of a block of bash, also inside `$(…)`."""
    for line in block.text.replace("\\\n", " ").splitlines():
        line = _COMMENT.sub("", line)
        # What is quoted has no operators of the shell.
        quoted = _QUOTED.findall(line)
        line = _QUOTED.sub("\0", line)
        for part in filter(None, map(_alone, _OPERATOR.split(line))):
            while "\0" in part:
                part = part.replace("\0", quoted.pop(0), 1)
            yield Command(block.page, tuple(shlex.split(part)))


def _alone(part: str) -> str:
    """Without assignments and words of the shell before the command."""
    while (shorter := _BEFORE.sub("", part.strip())) != part:
        part = shorter
    return part


def mentioned() -> list[Command]:
    """Commands in the middle of sentences."""
    found = []
    for path in PAGES:
        page = path.relative_to(ROOT).as_posix()
        text = _FENCE.sub("", path.read_text())
        found += [Command(page, tuple(shlex.split(each[1]))) for each in _INLINE.finditer(text)]
    return found
