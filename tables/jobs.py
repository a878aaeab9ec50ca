"""Table `jobs`: job id -> JobState (JSON)."""

from collections.abc import MutableMapping

from export_service.jobs import JobState


class Jobs:
    """Typed view of a bytes-to-bytes table (or of a dict, in tests)."""

    def __init__(self, table: MutableMapping[bytes, bytes]) -> None:
        self._table = table

    def get(self, job_id: str) -> JobState | None:
        raw = self._table.get(job_id.encode())
        return JobState.model_validate_json(raw) if raw else None

    def put(self, job_id: str, state: JobState) -> None:
        self._table[job_id.encode()] = state.to_bytes()
