"""Table `jobs`: job id -> JobState (JSON)."""

from export_service.jobs import JobState
from tables.decoded import Decoded, Table


class Jobs:
    """Typed view of a bytes-to-bytes table ."""

    def __init__(self, table: Table) -> None:
        self._states = Decoded(table, JobState.to_bytes, JobState.model_validate_json)

    def get(self, job_id: str) -> JobState | None:
        return self._states.get(job_id.encode())

    def put(self, job_id: str, state: JobState) -> None:
        self._states.put(job_id.encode(), state)
