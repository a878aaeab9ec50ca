"""Jobs of which nothing more is wanted, as the topic `cancellations` says: remembered by the plan step and by the download step."""

_REMEMBERED = 100_000
"""The oldest is forgotten first; what comes of it then is work for nothing, and no count changes."""


class Cancelled:
    def __init__(self) -> None:
        self._attempts: dict[str, int] = {}

    def add(self, job_id: str, attempt: int) -> None:
        """Nothing of the job, as far as it was planned for `attempt` or before."""
        if len(self._attempts) >= _REMEMBERED:
            self._attempts.pop(next(iter(self._attempts)))
        self._attempts[job_id] = max(attempt, self._attempts.pop(job_id, 0))

    def covers(self, job_id: str, attempt: int) -> bool:
        return attempt <= self._attempts.get(job_id, 0)
