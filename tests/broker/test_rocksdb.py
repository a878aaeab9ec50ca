"""Tables on RocksDB, on a real broker: whatever became of the state folder, the tally counts right and its changelog has all of it."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from export_service.jobs import JobState
from export_service.messages import JobPlanned, JobStatus
from export_service.settings import Settings
from tests.broker.test_tally_role import JOB, Losing, read, results, running_tally

pytestmark = pytest.mark.broker


@pytest.fixture
def on_disk(settings: Settings) -> Settings:
    return settings.model_copy(update={"tally": settings.tally.model_copy(update={"store": "rocksdb://"})})


class LosesChangelogs(Losing):
    ending = "changelog"


async def test_a_write_that_the_changelog_never_got_is_made_again(on_disk: Settings) -> None:
    """With Faust's own store the replayed event finds itself folded already, and the changelog stays without it for good."""
    async with running_tally(on_disk, LosesChangelogs) as crashed:
        await crashed.publish(results(0))
        await crashed.state(lambda state: state.succeeded == 1)
        names = crashed.names
    assert await read(on_disk, names.jobs_changelog.name) == []
    async with running_tally(on_disk) as second:
        await second.state(lambda state: state.succeeded == 1)
        async with asyncio.timeout(30):
            while not (written := await read(on_disk, names.jobs_changelog.name)):
                await asyncio.sleep(0.05)
        assert not second.errors
    assert JobState.model_validate_json(written[-1]).succeeded == 1


def delete(folder: Path, old: Path) -> None:  # noqa: ARG001
    shutil.rmtree(folder)


def put_back(folder: Path, old: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(old, folder)


def grow(folder: Path, old: Path) -> None:  # noqa: ARG001
    """Partitions that there are none of any more."""
    for path in list(folder.rglob("*-0.db")):
        shutil.copytree(path, path.with_name(path.name.replace("-0.db", "-7.db")))


def keep(folder: Path, old: Path) -> None:
    pass


@pytest.mark.parametrize("change", [delete, put_back, grow, keep], ids=["deleted", "an older copy", "another layout", "as it was"])
async def test_a_state_folder_in_any_shape_recovers(
    on_disk: Settings, tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    folder, old = on_disk.worker.state_dir, tmp_path / "old"
    async with running_tally(on_disk) as first:
        await first.publish(results(0, 1))
        await first.state(lambda state: state.succeeded == 2)
    shutil.copytree(folder, old)
    async with running_tally(on_disk) as second:
        await second.publish(results(2))
        await second.state(lambda state: state.succeeded == 3)
    change(folder, old)
    async with running_tally(on_disk) as third:
        assert (await third.state(lambda _: True)).succeeded == 3
        await third.publish(results(1, 2, 3), JobPlanned(job=JOB, total_tasks=4))
        state = await third.state(lambda state: state.status.terminal)
        assert (state.status, state.succeeded, state.bytes) == (JobStatus.COMPLETED, 4, 40)
        assert not [*first.errors, *second.errors, *third.errors]


async def test_a_store_that_is_newer_than_its_changelog_is_dropped(on_disk: Settings) -> None:
    """The topics were deleted and made again. Faust goes on with what it has, and the changelog never gets it."""
    async with running_tally(on_disk) as first:
        await first.publish(results(0, 1))
        await first.publish(results(2))
        await first.state(lambda state: state.succeeded == 3)
        names = first.names
    admin = AIOKafkaAdminClient(bootstrap_servers=on_disk.kafka.bootstrap_servers)
    await admin.start()
    gone = [names.jobs_changelog.name, names.shards_changelog.name]
    await admin.delete_topics(gone)
    async with asyncio.timeout(30):
        while set(gone) & set(await admin.list_topics()):
            await asyncio.sleep(0.1)
    await admin.close()
    async with running_tally(on_disk) as second:
        await second.publish(results(5))
        assert (await second.state(lambda state: state.succeeded > 0)).succeeded == 1, "what the changelog lost is lost here too"
        assert not second.errors
