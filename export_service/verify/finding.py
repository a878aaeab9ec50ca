"""What a check has found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

RETENTION = "retention has removed records that say it"


class Difference(NamedTuple):
    """One field of a job. `where` has `found`, and the fold of results says `fold`."""

    job: str
    where: str
    field: str
    found: Any
    fold: Any


@dataclass
class Finding:
    violations: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    skipped: bool = False

    def violated(self, sentence: str) -> None:
        """A sentence that names job, task or topic:partition:offset."""
        self.violations.append(sentence)

    def differs(self, job: str, where: str, found: Mapping[str, Any], right: Mapping[str, Any]) -> None:
        """A violation, if a field that the fold of results knows is another one."""
        wrong = [Difference(job, where, name, found.get(name), value) for name, value in right.items() if found.get(name) != value]
        self.differences += wrong
        if wrong:
            fields = "; ".join(f"{each.field} {each.found}, and the fold of results {each.fold}" for each in wrong)
            self.violated(f"job {job}: {where} has {fields}")

    def gap(self, why: str) -> None:
        """Something that could not be checked."""
        self.gaps.append(why)

    def skip(self, why: str) -> "Finding":
        """Nothing could be checked."""
        self.skipped = True
        self.gap(why)
        return self

    def count_gap(self, number: int, what: str) -> None:
        """A gap that concerns `number` jobs; none, no gap."""
        if number:
            self.gap(f"{number:,} {'job' if number == 1 else 'jobs'}: {what}")
