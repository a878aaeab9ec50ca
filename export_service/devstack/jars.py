"""Kafka's jars, resolved by jgo in Python: no Java or Maven on the machine. Cached; a broken download is found and fetched again."""

import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export_service.devstack.processes import DevstackError

KAFKA_VERSION = "4.3.1"
Artifacts = Sequence[tuple[str, str, str]]
"""Group, name and version of each."""
_BROKER: Artifacts = (("org.apache.kafka", "kafka_2.13", KAFKA_VERSION), ("org.apache.kafka", "kafka-tools", KAFKA_VERSION))


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "export-service" / f"kafka-{KAFKA_VERSION}"


def class_path(cache: Path, fetch: Callable[[Path], list[Path]] | None = None) -> list[Path]:
    """The jars of the broker. Downloads what is missing (about 100 MB); no network when all is there.

    Raises:
        DevstackError: a jar cannot be had, or is broken twice in a row.
    """
    listing = cache / "classpath.txt"
    if listing.exists():
        jars = [cache / line for line in listing.read_text().splitlines()]
        if jars and all(jar.exists() for jar in jars):
            return jars
    fetch = fetch or download
    for attempt in (1, 2):
        try:
            jars = fetch(cache)
        except Exception as error:  # jgo raises whatever its HTTP client and XML parser raise
            if attempt == 2:
                raise DevstackError(
                    f"Kafka's jars cannot be downloaded ({type(error).__name__}: {str(error)[:200]}); check the network, then run again"
                ) from None
            _discard(cache, "*.pom")
            continue
        broken = [jar for jar in jars if not whole(jar)]
        if not broken:
            # Written last and by rename: an interrupted download never looks complete.
            listing.with_suffix(".new").write_text("\n".join(str(jar.relative_to(cache)) for jar in jars))
            listing.with_suffix(".new").replace(listing)
            return jars
        for jar in broken:
            jar.unlink(missing_ok=True)
    raise DevstackError(f"{broken[0].name} arrives broken, twice in a row; remove {cache} and run again on a better connection")


def whole(jar: Path) -> bool:
    """Every entry of the archive is there and has its checksum."""
    try:
        with zipfile.ZipFile(jar) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError):
        return False
    except Exception as error:
        if type(error).__module__ == "zlib":
            return False
        raise


def _discard(cache: Path, pattern: str) -> None:
    for path in cache.rglob(pattern):
        path.unlink(missing_ok=True)


def download(cache: Path, artifacts: Artifacts = _BROKER) -> list[Path]:
    """The jars of these and of all that they need."""
    from jgo.maven import Dependency, MavenContext, PythonResolver

    cache.mkdir(parents=True, exist_ok=True)
    with _progress() as (phase, downloading):
        phase(f"Resolving Kafka {KAFKA_VERSION}")
        resolver = PythonResolver(progress_callback=downloading)
        context = MavenContext(resolver=resolver, repo_cache=cache / "maven", timeout=60)
        wanted = [Dependency(context.project(group, name).at_version(version).artifact()) for group, name, version in artifacts]
        inputs, others = resolver.resolve(wanted)
        found = {str(dep.artifact): dep.artifact for dep in (*inputs, *others)}
        phase(f"Downloading {len(found)} jars")
        with ThreadPoolExecutor(8) as pool:
            return sorted(set(pool.map(lambda artifact: Path(artifact.resolve()), found.values())))


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str], None], Callable[[str, int], Any]]]:
    """(phase, jgo's progress callback): bars on a terminal, one plain line a phase elsewhere. On stderr, for `--json`."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = Console(stderr=True)
    if not sys.stderr.isatty():

        @contextmanager
        def silent(_: str, __: int) -> Iterator[Callable[[int], None]]:
            yield lambda _: None

        yield (lambda text: console.print(text + " …", highlight=False)), silent
        return
    with Progress(
        TextColumn("{task.description:<34.34}"), BarColumn(bar_width=20), DownloadColumn(), console=console, transient=True
    ) as bars:
        total = bars.add_task("Kafka", total=None)

        @contextmanager
        def bar(name: str, size: int) -> Iterator[Callable[[int], None]]:
            task = bars.add_task(name, total=size)
            try:
                yield lambda count: bars.advance(task, count)
            finally:
                bars.remove_task(task)

        yield (lambda text: bars.update(total, description=text)), bar
