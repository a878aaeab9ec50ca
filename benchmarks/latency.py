"""From the end of a job to the answer that Step Functions has accepted, beside a bare SendTaskSuccess. Prints percentiles and ratios.

    ./dev benchmark latency [--jobs 200] [--slots 1,8] [--folder /dev/shm]

Jobs of one file run through the embedded stack and one worker with all roles, so many slots at a time. Each slot does one job and then one
bare call, by turns, so that both meet the same emulator, as busy: the bare call answers a state that waits for its token just like a
job's, and is nothing but SendTaskSuccess of a boto3 client. What happened when is read afterwards, from outside: the times of records on
the topics, of the report's file, of `claimedAt` in the ledger, of TaskSucceeded in the execution's history. Every execution must have
succeeded, with one TaskSucceeded, one completion, one SENT answer and one line of report. Needs nginx.
"""

import argparse
import asyncio
import json
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer

from benchmarks.parts import SyntheticSource, have, start_worker, table
from export_service.devstack import aws, stack
from export_service.messages import CallbackAnswered, CallbackOutcome, JobCompleted, TaskResults
from export_service.readers import read_event
from export_service.settings import load
from streams.topics import Topics, topics
from tests.kafka import records

_SECONDS = 120
"""In which a job must be answered."""
STAGES = ("result", "completion", "report", "claim", "accepted", "heard")
"""The last TaskResults, the completion: the time of their records, which is when the tally's producer took them. The report's last byte is
written; the answer is claimed in the ledger; TaskSucceeded; the callback step has Step Functions' reply."""


class Times(NamedTuple):
    """Of one job, each in seconds since the epoch; a claim that waits for nothing may be before the report."""

    result: float
    completion: float
    report: float
    claim: float
    accepted: float
    heard: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="of each series")
    parser.add_argument("--slots", default="1,8", help="jobs at a time, one series each")
    parser.add_argument("--folder", default="/dev/shm")
    options = parser.parse_args()
    if not have("nginx", packages="nginx-light"):
        return 1
    with tempfile.TemporaryDirectory(prefix="export-latency-", dir=options.folder) as folder:
        bench = Bench(Path(folder))
        try:
            asyncio.run(bench.series(8, 4, "warm-up"))
            for slots in map(int, options.slots.split(",")):
                asyncio.run(bench.series(options.jobs, slots, f"{options.jobs} jobs, {slots} at a time"))
        finally:
            bench.close()
    return 0


class Bench:
    """The stack, a worker, and a second queue and state machine for the bare calls."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._source = folder, SyntheticSource(folder)
        self._stack = asyncio.run(stack.up(folder / "stack"))
        self._out = folder / "out"
        env = self._stack.env | {
            "EXPORT_CATALOG": f"{self._source.base}/lists/{{exportId}}.jsonl",
            "EXPORT_DESTINATION": self._out.as_uri() + "/{jobId}/",
        }
        self._source.write_list("one", 1)
        self._bootstrap, self._machine = env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"], env["EXPORT_STATE_MACHINE_ARN"]
        clients = aws.Aws(env["AWS_ENDPOINT"])
        self._sqs, self._dynamodb, self._sfn = map(clients.client, ("sqs", "dynamodb", "stepfunctions"))
        self._bare_queue = self._sqs.create_queue(QueueName="bare")["QueueUrl"]
        self._bare_machine = aws.create_state_machine(self._sfn, "bare", self._bare_queue)
        self._worker = start_worker(folder / "worker.log", env)

    def close(self) -> None:
        self._worker.terminate()
        self._worker.wait(60)
        self._stack.stop()
        self._source.close()

    async def series(self, jobs: int, slots: int, title: str) -> None:
        names, left = topics(load()), list(range(jobs))
        arns: dict[str, str] = {}
        bare: list[float] = []
        answers = _Answers(self._bootstrap, names.callbacks.name)
        with ThreadPoolExecutor(slots) as threads:
            loop = asyncio.get_running_loop()

            async def slot() -> None:
                while left:
                    left.pop()
                    job = str(uuid.uuid4())
                    answered = answers.expect(job)
                    arns[job] = await loop.run_in_executor(threads, self._start, self._machine, job)
                    await asyncio.wait_for(answered, _SECONDS)
                    bare.append(await loop.run_in_executor(threads, self._bare))

            await answers.start()
            try:
                await asyncio.gather(*(slot() for _ in range(slots)))
            finally:
                await answers.stop()
        report(title, await self._times(names, arns), bare)

    def _start(self, machine: str, job: str) -> str:
        text = json.dumps({"jobId": job, "exportId": "one", "userId": "bench"})
        return str(self._sfn.start_execution(stateMachineArn=machine, name=f"bench-{job}", input=text)["executionArn"])

    def _bare(self) -> float:
        """Seconds of one call. Raises what it raises, so every one was accepted."""
        self._start(self._bare_machine, str(uuid.uuid4()))
        while not (got := self._sqs.receive_message(QueueUrl=self._bare_queue, WaitTimeSeconds=1).get("Messages")):
            pass
        # Whose token it is does not matter: each slot starts one and answers one.
        token, output = json.loads(got[0]["Body"])["taskToken"], json.dumps({"status": "COMPLETED"})
        began = time.perf_counter()
        self._sfn.send_task_success(taskToken=token, output=output)
        taken = time.perf_counter() - began
        self._sqs.delete_message(QueueUrl=self._bare_queue, ReceiptHandle=got[0]["ReceiptHandle"])
        return taken

    async def _times(self, names: Topics, arns: Mapping[str, str]) -> list[Times]:
        """Of each job. Raises SystemExit if one was not answered once and well."""
        results: dict[str, float] = {}
        completions: dict[str, float] = {}
        heard: dict[str, float] = {}
        counts: Counter[tuple[str, str]] = Counter()
        for record in await records(self._bootstrap, names.results.name, names.completions.name, names.callbacks.name):
            job = record.key.decode()
            if job not in arns:
                continue
            if record.topic == names.results.name:
                if isinstance(read_event(record.value), TaskResults):
                    results[job] = record.timestamp / 1000
            elif record.topic == names.completions.name:
                JobCompleted.model_validate_json(record.value)
                completions[job] = record.timestamp / 1000
                counts[job, "completions"] += 1
            else:
                said = CallbackAnswered.model_validate_json(record.value)
                heard[job] = said.answered_at.timestamp()
                counts[job, said.outcome] += 1
        times = []
        for job, arn in arns.items():
            accepted = self._accepted(arn)
            written = self._out / job / "_report.jsonl"
            lines = written.read_text().count('"SUCCEEDED"')
            found = (len(accepted), counts[job, "completions"], counts[job, CallbackOutcome.SENT], lines)
            if found != (1, 1, 1, 1):
                raise SystemExit(f"job {job}: (TaskSucceeded, completions, SENT answers, lines of the report) are {found}")
            report = written.stat().st_mtime
            times.append(Times(results[job], completions[job], report, self._claimed(job), accepted[0], heard[job]))
        return times

    def _accepted(self, arn: str) -> list[float]:
        """When its state was told that it has succeeded, as often as it was. Raises SystemExit if the execution did not."""
        deadline = time.monotonic() + _SECONDS
        while (status := self._sfn.describe_execution(executionArn=arn)["status"]) == "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.05)
        if status != "SUCCEEDED":
            raise SystemExit(f"{arn} is {status}")
        events = self._sfn.get_execution_history(executionArn=arn)["events"]
        return [event["timestamp"].timestamp() for event in events if event["type"] == "TaskSucceeded"]

    def _claimed(self, job: str) -> float:
        key = {"pk": {"S": f"JOB#{job}"}, "sk": {"S": "ATTEMPT#0001"}}
        item = self._dynamodb.get_item(TableName=aws.TABLE, Key=key, ConsistentRead=True)["Item"]
        return _iso(item["claimedAt"]["S"])


class _Answers:
    """Tells who waits for a job's answer that it is on `callbacks`: nobody need ask the emulator, which is what is measured."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="latest")
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def expect(self, job: str) -> "asyncio.Future[None]":
        self._waiting[job] = future = asyncio.get_running_loop().create_future()
        return future

    async def start(self) -> None:
        await self._consumer.start()
        for place in self._consumer.assignment():
            await self._consumer.position(place)
        self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for record in self._consumer:
            if (future := self._waiting.pop(record.key.decode(), None)) is not None:
                future.set_result(None)

    async def stop(self) -> None:
        self._following.cancel()
        with suppress(asyncio.CancelledError):
            await self._following
        await self._consumer.stop()


def report(title: str, times: Sequence[Times], bare: Sequence[float]) -> None:
    base = percentiles(bare)
    rows = [_row("a bare SendTaskSuccess", base, base)]
    spans = [("result", "completion"), ("completion", "report"), ("report", "claim"), ("claim", "accepted"), ("accepted", "heard"),
             ("completion", "accepted"), ("result", "accepted")]  # fmt: skip
    for first, last in spans:
        taken = percentiles(getattr(each, last) - getattr(each, first) for each in times)
        rows.append(_row(f"{first} to {last}", taken, base))
    print(f"\n{title}: milliseconds, and how many times the bare call's p50 and p99")
    print(table(["", "p50", "p90", "p99", "p50 / p50", "p99 / p99"], rows), flush=True)


def percentiles(seconds: Iterable[float]) -> tuple[float, float, float]:
    """p50, p90, p99, in milliseconds."""
    cuts = quantiles([each * 1000 for each in seconds], n=100, method="inclusive")
    return cuts[49], cuts[89], cuts[98]


def _row(what: str, taken: tuple[float, float, float], base: tuple[float, float, float]) -> list[str]:
    return [what, *(f"{each:.0f}" for each in taken), f"{taken[0] / base[0]:.1f}", f"{taken[2] / base[2]:.1f}"]


def _iso(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


if __name__ == "__main__":
    raise SystemExit(main())
