"""What a report is made from: a job's results, and nothing else that has its key."""

from datetime import UTC, datetime

from export_service.messages import JobCancelled, Outcome, TaskResult, TaskResults
from streams.results_reader import _results


def test_results_are_read_and_what_is_no_event_holds_up_no_report() -> None:
    results = TaskResults(job_id="j", attempt=1, results=(TaskResult(index=0, outcome=Outcome.FAILED, name="n", url="u"),))
    read = _results(results.to_bytes())
    assert isinstance(read, TaskResults)
    assert read.results[0].outcome is Outcome.FAILED
    assert _results(JobCancelled(job_id="j", cause=f"{datetime.now(UTC)}").to_bytes()) is None
    for poison in (None, b"", b"\x00\xff", b"{}", b'{"type":"TaskResults","jobId":"j","attempt":1,"results":[{"index":"x"}]}'):
        assert _results(poison) is None
