"""What a check has found."""

from dataclasses import dataclass, field

RETENTION = "retention has removed records that say it"


@dataclass
class Finding:
    violations: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    skipped: bool = False

    def violated(self, sentence: str) -> None:
        """A sentence that names job, task or topic:partition:offset."""
        self.violations.append(sentence)

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
