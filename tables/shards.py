"""Table `shards`: job id / shard number, or job id / run.shard number of a later run -> bitmaps of 8,192 tasks, so that a result rewrites
at most some 2 KiB however large its job."""

from export_service.shards import Shard
from tables.decoded import Decoded, Table


class Shards:
    """Typed view of a bytes-to-bytes table ."""

    def __init__(self, table: Table) -> None:
        self._shards = Decoded(table, Shard.to_bytes, Shard.from_bytes)

    def get(self, job_id: str, run: int, number: int) -> Shard:
        return self._shards.get(_key(job_id, run, number)) or Shard()

    def put(self, job_id: str, run: int, number: int, shard: Shard) -> None:
        self._shards.put(_key(job_id, run, number), shard)


def _key(job_id: str, run: int, number: int) -> bytes:
    return (f"{job_id}/{number}" if run == 1 else f"{job_id}/{run}.{number}").encode()
