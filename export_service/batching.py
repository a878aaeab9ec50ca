"""How many tasks travel in one record.

Small jobs: one task a record, so that they spread over all workers and progress is fine-grained. Large jobs: up to 256, because the
stream engine costs about 150 µs a record. The batch grows with the tasks already planned and never crosses a shard border, so that
one result record touches one shard.
"""

from export_service.shards import SHARD_TASKS

MAX_BATCH_TASKS = 256
MAX_BATCH_BYTES = 256 * 1024
"""Of the tasks' JSON: far below Kafka's 1 MiB record limit even with long signed URLs."""
_GROWTH = 16


def batch_limit(planned: int) -> int:
    """Most tasks the next batch may hold when `planned` tasks are planned already."""
    return min(max(1, planned // _GROWTH), MAX_BATCH_TASKS, SHARD_TASKS - planned % SHARD_TASKS)
