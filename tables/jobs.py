"""Table `jobs`: job id -> JobState (JSON)."""

from collections.abc import MutableMapping

from export_service.jobs import JobState
from tables.decoded import Decoded


class Jobs:
    """Typed view of a bytes-to-bytes table (or of a dict, in tests)."""

    def __init__(self, table: MutableMapping[bytes, bytes]) -> None:
        self._table, self._decoded = table, Decoded(JobState.model_validate_json)

    def get(self, job_id: str) -> JobState | None:
        key = job_id.encode()
        raw = self._table.get(key)
        return self._decoded.value(key, raw) if raw else None

    def put(self, job_id: str, state: JobState) -> None:
        key, raw = job_id.encode(), state.to_bytes()
        self._table[key] = raw
        self._decoded.note(key, raw, state)
