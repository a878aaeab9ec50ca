"""The oracle as chaos tests run it: a program of its own, told what only the test knows.

    python -m tests.chaos.oracle TRUTH.json [--json]

Where things are comes from the environment, as for `export-service verify`. Exit code 0 if every invariant was checked and holds, else 1.
"""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from export_service._app_path import make_importable
from export_service.cli.verify import as_object, as_text, collect
from export_service.settings import load
from export_service.verify.evidence import Evidence, Limits, Sample, Sent
from export_service.verify.gather import Scope
from export_service.verify.verdict import judge


@dataclass(frozen=True)
class Truth:
    """What a test knows and topics do not.

    Attributes:
        sources: URL -> SHA-256 of what it serves.
        jobs, messages: ids of jobs sent, and of SQS messages whose job nobody can read.
        secrets: strings that may appear nowhere, in addition to the ledger's tokens.
        logs: files.
        executions: ARNs.
        samples: (worker, resident bytes, open files) each; without any, I9 is not checked.
        wait_seconds: how long lag may take to get to 0.
    """

    sources: dict[str, str] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    executions: list[str] = field(default_factory=list)
    samples: list[tuple[str, int, int]] = field(default_factory=list)
    limits: tuple[int, int] = (Limits.rss, Limits.open_files)
    wait_seconds: float = 60

    def save(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)))
        return path

    def evidence(self) -> Evidence:
        return Evidence(
            settled=True,
            sources=self.sources,
            sent=(*map(Sent, self.jobs), *(Sent(None, message) for message in self.messages)),
            secrets=tuple(self.secrets),
            logs={path: Path(path).read_bytes() for path in self.logs},
            samples=tuple(Sample(*sample) for sample in self.samples),
            limits=Limits(*self.limits),
        )


def main(arguments: list[str]) -> int:
    make_importable()
    truth = Truth(**json.loads(Path(arguments[0]).read_text()))
    scope = Scope(wait_seconds=truth.wait_seconds, executions=tuple(truth.executions))
    evidence = asyncio.run(collect(load(), scope, truth.evidence(), lambda *_: None))
    verdicts = judge(evidence)
    as_json = "--json" in arguments
    sys.stdout.write(json.dumps(as_object(verdicts, evidence)) + "\n" if as_json else as_text(verdicts, evidence))
    blind = [each.invariant for each in verdicts if each.skipped and (each.invariant != "I9" or truth.samples)]
    return int(bool(blind) or any(each.violations for each in verdicts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
