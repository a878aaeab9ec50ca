"""The verdict: one pure function an invariant, evidence in, sentences out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from export_service.verify import files, limits, offsets, outcomes, tables
from export_service.verify.evidence import Evidence
from export_service.verify.finding import Difference, Finding
from export_service.verify.history import History


@dataclass(frozen=True)
class Verdict:
    """Of one invariant. `gaps` says what of it could not be checked; it is `skipped` when that is all of it."""

    invariant: str
    promise: str
    violations: tuple[str, ...]
    gaps: tuple[str, ...]
    skipped: bool
    differences: tuple[Difference, ...] = ()

    @property
    def summary(self) -> str:
        if self.violations:
            return f"VIOLATED {len(self.violations)}"
        return "not checked" if self.skipped else "OK"

    def as_json(self) -> dict[str, Any]:
        state = "VIOLATED" if self.violations else self.summary
        return {
            "invariant": self.invariant,
            "promise": self.promise,
            "verdict": state,
            "violations": list(self.violations),
            "notChecked": list(self.gaps),
            **({"differences": [each._asdict() for each in self.differences]} if self.differences else {}),
        }


CHECKS: dict[str, tuple[str, Callable[[History], Finding]]] = {
    "I1": ("every accepted job ends, in one state", outcomes.one_end),
    "I2": ("one answer a token, and it tells the truth", outcomes.one_answer),
    "I3": ("counters add up and never go back", outcomes.counters),
    "I4": ("destination = source, nothing half-written", files.destination_is_source),
    "I5": ("tables = fold of results = DynamoDB", tables.tables_are_the_fold),
    "I6": ("nothing unconfirmed is committed", offsets.nothing_unconfirmed_is_committed),
    "I7": ("lag is 0 when faults are over", offsets.no_lag),
    "I8": ("secrets are nowhere", limits.no_secret),
    "I9": ("memory and files are bounded", limits.bounded),
}


def judge(evidence: Evidence) -> list[Verdict]:
    """A verdict for each invariant, in their order."""
    history = History(evidence)
    verdicts = []
    for invariant, (promise, check) in CHECKS.items():
        finding = Finding().skip(why) if (why := evidence.missing.get(invariant)) else check(history)
        # A record that is on a topic twice makes the same sentence twice.
        violations, gaps = tuple(dict.fromkeys(finding.violations)), tuple(dict.fromkeys(finding.gaps))
        verdicts.append(Verdict(invariant, promise, violations, gaps, finding.skipped, tuple(finding.differences)))
    return verdicts
