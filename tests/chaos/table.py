"""Scenario × invariant, of the fault runs that were noted: `python -m tests.chaos.table FILE...`"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

INVARIANTS = [f"I{number}" for number in range(1, 10)]


@dataclass(frozen=True)
class Run:
    """One scenario with one seed. `verdicts`: invariant -> `OK`, or else; empty if the jobs did not end."""

    scenario: str
    faults: str
    seed: int
    done: dict[str, int]
    jobs: int
    tasks: int
    verdicts: dict[str, str]
    seconds: float

    def note(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(asdict(self)) + "\n")


def load(paths: Iterable[Path]) -> list[Run]:
    return [Run(**json.loads(line)) for path in paths for line in path.read_text().splitlines()]


def table(runs: list[Run]) -> str:
    """Markdown. `·` is an invariant that held in each run; else the number of runs in which it did not."""
    by_scenario: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_scenario[run.scenario].append(run)
    lines = [f"| scenario | F | runs | faults | {' | '.join(INVARIANTS)} |", "|---|---|--:|--:|" + ":-:|" * len(INVARIANTS)]
    for scenario, mine in by_scenario.items():
        cells = []
        for invariant in INVARIANTS:
            wrong = sum(run.verdicts.get(invariant, "missing") != "OK" for run in mine)
            cells.append(str(wrong) if wrong else "·")
        faults = sum(sum(run.done.values()) for run in mine)
        lines.append(f"| {scenario} | {mine[0].faults} | {len(mine)} | {faults:,} | {' | '.join(cells)} |")
    done = sum((Counter(run.done) for run in runs), Counter[str]())
    bad = sum(run.verdicts.get(invariant, "missing") != "OK" for run in runs for invariant in INVARIANTS)
    lines += [
        "",
        f"{len(runs)} runs, {sum(done.values()):,} faults, {sum(run.jobs for run in runs):,} jobs, "
        f"{sum(run.tasks for run in runs):,} files: {bad} violations.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table(load(map(Path, sys.argv[1:]))) + "\n")
