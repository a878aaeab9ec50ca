"""Pictures as numbers: what the templates draw as SVG. Nothing here has a colour; the style sheet has them, for both themes."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from export_service.console.now import FLOW, Now, Sample
from export_service.history.timeline import Stage
from export_service.shards import SHARD_TASKS, ReadShard

MOST_CELLS = 4096
_COLUMNS = 64
_POINTS = 240
_SLOW, _LATE = 10.0, 60.0
"""Seconds that a record may wait before its topic is shown as slow, and as late."""


class Box(NamedTuple):
    """`kind`: outside, step or topic; `lines` below the name; `state`: ok, slow or late."""

    kind: str
    name: str
    x: int
    y: int
    width: int
    height: int
    link: str | None = None
    lines: tuple[str, ...] = ()
    state: str = "ok"

    @property
    def middle(self) -> tuple[int, int]:
        return self.x + self.width // 2, self.y + self.height // 2


Arrow = str
"""An SVG path; its tip is at its end."""


class Flow(NamedTuple):
    """`shape` is wide, or tall for a phone."""

    shape: str
    width: int
    height: int
    boxes: Sequence[Box]
    arrows: Sequence[Arrow]


_KINDS = {"SQS": "outside", "Step Functions": "outside", "DynamoDB": "outside"} | dict.fromkeys(FLOW, "topic")
_MAIN = ("SQS", "connector", "requests", "plan", "tasks", "download", "results", "tally")
_ENDS = ("completions", "callback", "Step Functions"), ("snapshots", "snapshot", "DynamoDB")


def flows(now: Now, words: Callable[[Now, str], tuple[str, ...]]) -> tuple[Flow, Flow]:
    """The pipeline, wide and tall. `words`: what is said of a topic."""
    return _wide(now, words), _tall(now, words)


def _wide(now: Now, words: Callable[[Now, str], tuple[str, ...]]) -> Flow:
    boxes, x = {}, 4
    for name in _MAIN:
        width = 150 if name in FLOW else 104
        boxes[name] = _box(now, words, name, x, 4, width)
        x += width + 24
    tally = boxes["tally"]
    right = tally.x + tally.width
    for row, (topic, step, outside) in enumerate(_ENDS):
        y = 108 + row * 92
        boxes[topic] = _box(now, words, topic, right - 150, y, 150)
        boxes[step] = _box(now, words, step, right - 150 - 24 - 104, y, 104)
        boxes[outside] = _box(now, words, outside, 4, y, 150)
    arrows = [_across(boxes[one], boxes[other]) for names in (_MAIN, *_ENDS) for one, other in pairwise(names)]
    middle, ends = tally.middle[0], boxes["snapshots"]
    arrows.append(f"M{middle} 74V106")
    arrows.append(f"M{right} 39h14V{ends.middle[1]}H{right + 2}")
    arrows.append(f"M{boxes['SQS'].middle[0]} 108V76")
    return Flow("wide", right + 20, 276, tuple(boxes.values()), arrows)


def _tall(now: Now, words: Callable[[Now, str], tuple[str, ...]]) -> Flow:
    boxes, y = {}, 4
    for name in _MAIN:
        height = 70 if name in FLOW else 36
        boxes[name] = _box(now, words, name, 84, y, 180, height)
        y += height + 22
    for x, names in zip((4, 178), _ENDS, strict=True):
        down = y
        for name in names:
            height = 70 if name in FLOW else 36
            boxes[name] = _box(now, words, name, x, down, 166, height)
            down += height + 22
    arrows = [_down(boxes[one], boxes[other]) for one, other in pairwise(_MAIN)]
    for names in _ENDS:
        first = boxes[names[0]]
        arrows.append(f"M{first.middle[0]} {boxes['tally'].y + 36}V{first.y - 2}")
        arrows += [_down(boxes[one], boxes[other]) for one, other in pairwise(names)]
    return Flow("tall", 348, down - 16, tuple(boxes.values()), arrows)


def _box(now: Now, words: Callable[[Now, str], tuple[str, ...]], name: str, x: int, y: int, width: int, height: int = 70) -> Box:
    kind = _KINDS.get(name, "step")
    if kind != "topic":
        return Box(kind, name, x, y, width, height, "/workers" if kind == "step" else None)
    return Box(kind, name, x, y, width, height, f"/topics/{name}", words(now, name), waiting(now.topic(name).age))


def waiting(age: float | None) -> str:
    """`ok`, `slow` or `late`, by how long the next record of a topic has waited."""
    return "ok" if age is None or age < _SLOW else "slow" if age < _LATE else "late"


def _across(one: Box, other: Box) -> Arrow:
    y = one.middle[1]
    return f"M{one.x + one.width} {y}H{other.x - 2}" if other.x > one.x else f"M{one.x} {y}H{other.x + other.width + 2}"


def _down(one: Box, other: Box) -> Arrow:
    return f"M{one.middle[0]} {one.y + one.height}V{other.y - 2}"


class Chart(NamedTuple):
    """`lines`: name and points, in a field of 1000 x 100 whose y goes down; `most` is its upper edge."""

    title: str
    most: float
    begin: datetime
    end: datetime
    lines: Sequence[tuple[str, str]]
    last: Sequence[tuple[str, float]]


def chart(title: str, samples: Sequence[Sample], lines: Sequence[tuple[str, Sequence[float]]]) -> Chart | None:
    """None for less than two samples. Of many neighbours the highest is drawn: a peak must not get lost."""
    if len(samples) < 2:
        return None
    size = -(-len(samples) // _POINTS)
    most = max((value for _, values in lines for value in values), default=0)
    drawn = []
    for name, values in lines:
        tops = [max(values[start : start + size]) for start in range(0, len(values), size)]
        step = 1000 / max(1, len(tops) - 1)
        drawn.append((name, " ".join(f"{n * step:.0f},{98 - 94 * top / (most or 1):.1f}" for n, top in enumerate(tops))))
    begin, end = (datetime.fromtimestamp(each.at).astimezone() for each in (samples[0], samples[-1]))
    return Chart(title, most, begin, end, drawn, [(name, values[-1]) for name, values in lines])


def rates(samples: Sequence[Sample], of: Callable[[Sample], int]) -> list[float]:
    """A second, between neighbours; as many as samples."""
    found = [0.0]
    for one, other in pairwise(samples):
        found.append(max(0, of(other) - of(one)) / max(other.at - one.at, 0.001))
    return found


class Bar(NamedTuple):
    """A stage in a field of 1000: where it begins, and how long it is."""

    name: str
    x: float
    width: float
    seconds: float
    open: bool


def waterfall(stages: Sequence[Stage], at: datetime) -> list[Bar]:
    if not stages:
        return []
    first, last = min(stage.begin for stage in stages), max(stage.end or at for stage in stages)
    whole = max(last - first, timedelta(milliseconds=1)).total_seconds()
    found = []
    for stage in stages:
        begin, length = (stage.begin - first).total_seconds(), ((stage.end or at) - stage.begin).total_seconds()
        width = max(4, 1000 * length / whole)
        found.append(Bar(stage.name, min(1000 * begin / whole, 1000 - width), width, length, stage.end is None))
    return found


class Grid(NamedTuple):
    """Cells of `tasks` tasks each, in rows of `columns`. `paths`: level -> where its cells are, as an SVG path."""

    tasks: int
    columns: int
    rows: int
    cells: Counter[str]
    paths: dict[str, str]


LEVELS = {
    "none": "not ended yet",
    "part": "partly ended, none failed",
    "done": "succeeded",
    "few": "less than a tenth failed",
    "many": "a tenth or more failed",
    "cancelled": "cancelled",
}


def grid(total: int, run: int, shard: ReadShard) -> Grid:
    """The outcomes of all tasks of a run, however many: a cell is one task, or as many of one shard as make it at most MOST_CELLS."""
    tasks = 1
    while tasks < SHARD_TASKS and -(-total // tasks) > MOST_CELLS:
        tasks *= 2
    levels = list(_levels(total, tasks, run, shard))
    columns = min(_COLUMNS, max(8, round((2 * len(levels)) ** 0.5)))
    runs: dict[str, list[str]] = {}
    at = 0
    while at < len(levels):
        # Neighbours of one level are one rectangle.
        x, y = at % columns, at // columns
        end = at + 1
        while end < len(levels) and end // columns == y and levels[end] == levels[at]:
            end += 1
        runs.setdefault(levels[at], []).append(f"M{x} {y}h{end - at}v1h-{end - at}z")
        at = end
    return Grid(tasks, columns, -(-len(levels) // columns), Counter(levels), {level: "".join(each) for level, each in runs.items()})


def _levels(total: int, tasks: int, run: int, shard: ReadShard) -> Iterator[str]:
    for number in range(-(-total // SHARD_TASKS)):
        here = shard(run, number)
        for begin in range(0, min(SHARD_TASKS, total - number * SHARD_TASKS), tasks):
            size = min(tasks, total - number * SHARD_TASKS - begin)
            mask = (1 << size) - 1  # outcomes beyond the total count nowhere
            yield _level(size, *((bits >> begin & mask).bit_count() for bits in here[:3]))


def _level(size: int, succeeded: int, failed: int, cancelled: int) -> str:
    if failed:
        return "many" if failed * 10 >= size else "few"
    if cancelled:
        return "cancelled"
    return "done" if succeeded == size else "part" if succeeded else "none"
