"""I4: what is at the destinations, against what the sources serve."""

import re
from collections import defaultdict

from export_service.verify.evidence import Destination
from export_service.verify.finding import RETENTION, Finding
from export_service.verify.history import SUCCEEDED, History, Job

_PART = re.compile(r"(^|/)\.[0-9a-f]{16}\.part$")
"""How the service names a local file that is not whole yet."""


def destination_is_source(history: History) -> Finding:
    """A file under a task's name is the source's, whatever became of the task; a task that succeeded has one.

    Where the source's hash is not known, the hash that the worker reported while it copied stands for it.
    Where S3 copied, there may be none.
    """
    finding, evidence = Finding(), history.evidence
    # Jobs may share a destination: whichever wrote last, the file must be one that somebody asked for.
    right: dict[tuple[str, str], set[str]] = defaultdict(set)
    sizes: dict[tuple[str, str], set[int]] = defaultdict(set)
    wanted: list[tuple[Job, Destination, int, str]] = []
    unsourced = unhashed = cut = seen = 0
    for job in history.jobs.values():
        place = job.destination
        if place is None or not job.whole:
            cut += 1
            continue
        names = job.files()
        if names and place not in evidence.destinations:
            finding.gap(f"job {job.id}: {evidence.missing.get(place) or f'{place} was not read'}")
            continue
        seen += 1
        reported, copied = _reported(job)
        unsourced += any(url not in evidence.sources for _, url in names.values())
        for index, (name, url) in names.items():
            right[place, name] |= {evidence.sources[url]} if url in evidence.sources else reported[index]
            sizes[place, name] |= copied[index]
            wanted.append((job, evidence.destinations[place], index, name))
    for job, destination, index, name in wanted:
        where = job.destination or "", name
        stored, hashes = destination.files.get(name), right[where]
        if stored is None and job.folded.best.get(index) == SUCCEEDED:
            finding.violated(f"job {job.id}, task {index} succeeded, and {name!r} is not at its destination")
        elif stored is not None and not hashes and sizes[where]:
            unhashed += 1
            if stored.size not in sizes[where]:
                finding.violated(f"job {job.id}, task {index}: {name!r} has {stored.size} bytes, and S3 copied others")
        elif stored is not None and hashes and stored.sha256 not in hashes:
            finding.violated(f"job {job.id}, task {index}: {name!r} ({stored.size} bytes) is not what its source serves")
    if evidence.settled:
        for place, destination in evidence.destinations.items():
            for name in filter(_PART.search, destination.files):
                finding.violated(f"{name!r} is left over at {place}: a transfer that died, and nobody removed its file")
            for key in destination.uploads:
                finding.violated(f"multipart upload of {key!r} at {place} was neither completed nor aborted")
    finding.count_gap(unsourced, "some source hashes are not known; compared with those on results")
    if unhashed:
        finding.gap(f"{unhashed:,} files that S3 copied, and keeps no SHA-256 of: only their sizes were compared")
    finding.count_gap(cut, RETENTION)
    finding.skipped = bool(history.jobs) and not seen
    return finding


def _reported(job: Job) -> tuple[dict[int, set[str]], dict[int, set[int]]]:
    """Task -> hashes that workers reported of it; task -> sizes, where they reported no hash."""
    hashes: dict[int, set[str]] = defaultdict(set)
    sizes: dict[int, set[int]] = defaultdict(set)
    for event in job.of("results"):
        for result in event.body.get("results", ()):
            if result["outcome"] == SUCCEEDED and "sha256" in result:
                hashes[result["index"]].add(result["sha256"])
            elif result["outcome"] == SUCCEEDED:
                sizes[result["index"]].add(result["bytes"])
    return hashes, sizes
