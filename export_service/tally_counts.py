"""What the tally folds, counted: outcomes in plain numbers, jobs and their times a few times a job."""

from collections.abc import Iterator
from datetime import datetime

from export_service import metric_names as names
from export_service.jobs import Step
from export_service.messages import JobAccepted, JobEvent, JobPlanned, TaskResults
from export_service.metrics import Metrics
from export_service.rebuilt import JobRebuilt
from export_service.samples import Sample


class TallyCounts:
    """Told of each event that was folded."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.events = self.outcomes = 0

    def __call__(self, event: JobEvent | JobRebuilt, step: Step, at: datetime) -> None:
        """`at`: the record's time."""
        self.events += 1
        if isinstance(event, TaskResults):
            self.outcomes += len(event.results)
        if step.changed and not isinstance(event, TaskResults | JobRebuilt):
            if isinstance(event, JobAccepted):
                self._reached("begun", step, at)
            elif isinstance(event, JobPlanned):
                self._reached("planned", step, at)
        # One that is folded again after a crash gives its completion again, and was counted.
        if step.completes and step.changed:
            self._metrics.jobs_ended.labels(step.state.status.value).inc()
            self._reached("ended", step, at)

    def _reached(self, stage: str, step: Step, at: datetime) -> None:
        if (job := step.state.job) is not None:
            self._metrics.job_time.labels(stage).observe(max(0.0, (at - job.requested_at).total_seconds()))

    def samples(self) -> Iterator[Sample]:
        yield Sample(names.EVENTS, self.events)
        yield Sample(names.OUTCOMES, self.outcomes)
