"""What is counted in plain numbers, as Prometheus reads it; and what counting costs."""

import json
import time
from datetime import timedelta

from export_service import metric_names as names
from export_service.download_counts import DownloadCounts
from export_service.emf import Emf
from export_service.jobs import fold
from export_service.messages import JobAccepted, JobEvent, JobPlanned, Outcome, TaskResult, TaskResults
from export_service.metric_names import ALL, BY_NAME, Kind
from export_service.metrics import Metrics
from export_service.samples import Buckets, Sample
from export_service.shards import Shard, ShardKey
from export_service.tally_counts import TallyCounts
from streams.ack_window import AckWindow, Place
from streams.progress import Progress
from tests.property.test_fold import JOB, START
from tests.unit.test_metrics import of


def result(outcome: Outcome = Outcome.SUCCEEDED, **fields: object) -> TaskResult:
    return TaskResult(index=0, outcome=outcome, name="n", url="https://h/n", **fields)  # type: ignore[arg-type]


def test_downloads_are_counted_by_outcome_class_and_set_of_hosts_and_by_no_host() -> None:
    metrics, counts = Metrics(), DownloadCounts(("example.com", "cdn.net"))
    metrics.read(counts.samples)
    counts.add("https://a.example.com:8443", result(bytes=10, attempts=3, duration_ms=20))
    counts.add("https://example.com", result(bytes=5, duration_ms=20))
    counts.add("https://notexample.com", result(bytes=7, duration_ms=20))
    counts.add("s3://bucket", result(Outcome.FAILED, error="ObjectNotFound", attempts=1))
    counts.add("s3://bucket", result(Outcome.CANCELLED, attempts=0))
    found = of(metrics)
    assert {name: value for name, value in found.items() if "seconds" not in name} == {
        "export_downloads_total  example.com SUCCEEDED": 2,
        "export_downloads_total  https SUCCEEDED": 1,
        "export_downloads_total ObjectNotFound s3 FAILED": 1,
        "export_downloads_total  s3 CANCELLED": 1,
        "export_download_bytes_total example.com": 15,
        "export_download_bytes_total https": 7,
        "export_download_retries_total example.com": 2,
    }
    assert found["export_download_seconds_count example.com"] == 2
    assert found["export_download_seconds_sum example.com"] == 0.04


def test_neither_hosts_nor_words_of_a_store_make_series_without_end() -> None:
    metrics, counts = Metrics(), DownloadCounts(())
    metrics.read(counts.samples)
    for number in range(10_000):
        counts.add(f"https://host{number}", result(Outcome.FAILED, error=f"Error{number}"))
    counts.add("https://h", result(Outcome.FAILED, error="a?signature=canary"))
    found = {name: value for name, value in of(metrics).items() if name.startswith("export_downloads_total")}
    assert len(found) == 65
    assert found["export_downloads_total other https FAILED"] == 10_001 - 64


def test_a_file_costs_its_worker_a_few_microseconds_at_most() -> None:
    counts, one = DownloadCounts(("example.com",)), result(bytes=10, duration_ms=20)
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(10_000):
            counts.add("https://a.example.com", one)
        best = min(best, (time.perf_counter() - began) / 10_000)
    # Some 0.5 µs; a file costs hundreds.
    assert best < 10e-6


def test_a_source_that_fails_is_left_out_and_the_others_are_there() -> None:
    def broken() -> list[Sample]:
        raise RuntimeError("not started yet")

    metrics = Metrics()
    metrics.read(broken)
    metrics.read(lambda: [Sample(names.EVENTS, 3)])
    for _ in range(2):
        assert of(metrics) == {"export_tally_events_total": 3}


def test_buckets_are_those_of_prometheus() -> None:
    buckets = Buckets((0.1, 1))
    for value in (0.1, 0.2, 1, 5):
        buckets.add(value)
    assert list(buckets.cumulative()) == [("0.1", 1), ("1.0", 3), ("+Inf", 4)]


def test_a_job_is_timed_by_its_records_and_not_again_when_they_are_folded_again() -> None:
    metrics = Metrics()
    counts = TallyCounts(metrics)
    metrics.read(counts.samples)
    job, shards = JOB.model_copy(update={"requested_at": START}), dict[ShardKey, Shard]()
    events: list[JobEvent] = [
        JobAccepted(job=job),
        JobPlanned(job=job, total_tasks=1),
        TaskResults(job_id=job.job_id, attempt=1, results=(result(),)),
    ]
    state = None
    for again in range(2):
        for offset, event in enumerate(events):
            at = START + timedelta(seconds=10 * (offset + 1))
            step = fold(state, event, offset, at, lambda run, number: shards.get((run, number), Shard()))
            shards.update(step.shards)
            state = step.state
            counts(event, step, at)
        found = of(metrics)
        assert found["export_tally_outcomes_total"] == again + 1
        assert {name: value for name, value in found.items() if "tally" not in name} == {
            "export_jobs_ended_total COMPLETED": 1,
            **{f"export_job_seconds_count {stage}": 1 for stage in names.STAGES},
            **{f"export_job_seconds_sum {stage}": 10 * (number + 1) for number, stage in enumerate(names.STAGES)},
        }


async def test_a_partition_with_more_to_read_that_does_not_move_is_told_after_a_while() -> None:
    place, now = Place("results", 0), 0.0
    window, progress = AckWindow(10, lambda _: None), Progress(5, lambda: now)
    window.begin(place, 0)

    def look(end: int, *, held: bool = False) -> list[float]:
        progress.look(window, {place: end}, held=held)
        return [seconds for _, seconds in progress.stuck()]

    assert look(0) == []
    now = 10.0
    assert look(0) == [], "nothing to read"
    now = 20.0
    assert look(3) == [], "what came just now"
    now = 26.0
    assert look(3) == [6]
    assert progress.longest == 6
    assert look(3, held=True) == [], "there is no room for it"
    assert look(3) == []
    entry = await window.admit(place, 0)
    now = 40.0
    assert look(3) == [], "it moved"
    now = 50.0
    assert look(3) == [10]
    assert entry is not None
    entry.done()
    assert look(3) == [], "so it did again"
    now = 100.0
    await window.admit(place, 1)
    await window.admit(place, 2)
    assert look(3) == [], "all is taken"


def test_the_list_has_each_name_once_in_base_units_and_bounded_labels() -> None:
    assert len(BY_NAME) == len(ALL) > 40
    for metric in ALL:
        assert metric.name.startswith("export_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert (metric.kind is Kind.HISTOGRAM) == bool(metric.buckets)
        assert not any(unit in metric.name for unit in ("_ms", "millis", "_mb", "kilo", "minutes"))
        assert not metric.labels.keys() & {"host", "url", "job", "job_id", "user", "user_id", "token"}


def test_emf_lines_carry_what_happened_since_the_last_one() -> None:
    metrics, lag = Metrics(), [3.0]
    metrics.read(lambda: [Sample(names.LAG_SECONDS, lag[0], ("tally", "results", str(n))) for n in (0, 1)])
    metrics.read(lambda: [Sample(names.LAG_SECONDS, 9000, ("plan", "requests", "0"))])
    emf = Emf(metrics.registry, "Exports")
    metrics.callbacks.labels("SENT").inc(3)
    metrics.callbacks.labels("ORPHANED").inc()
    metrics.heartbeats.labels("refused").inc()
    first = json.loads(emf.line(1.5))
    assert (first["CallbacksAnswered"], first["CallbacksFailed"], first["StepFunctionTimeouts"]) == (4, 1, 1)
    assert first["OldestLagSeconds"] == 3
    assert "JobsStuck" not in first, "no watch is here"
    directive = first["_aws"]["CloudWatchMetrics"][0]
    assert (first["_aws"]["Timestamp"], directive["Namespace"], directive["Dimensions"]) == (1500, "Exports", [[]])
    assert {each["Name"] for each in directive["Metrics"]} == first.keys() - {"_aws"}
    metrics.callbacks.labels("SENT").inc()
    second = json.loads(emf.line(2))
    assert (second["CallbacksAnswered"], second["CallbacksFailed"]) == (1, 0)
