"""A few large files, end to end, beside the tools people would pick instead. Prints medians and ratios.

    ./dev benchmark large_files [--files 4] [--mib 1024] [--rounds 3] [--rate 20] [--folder /dev/shm]

As benchmarks/small_files.py, whose parts it uses: one worker, from StartExecution to SUCCEEDED, against each command's own run, in turn,
every file compared with its source. `--rate` makes nginx send that many MiB a second through each connection, as object stores and distant
servers do. The folder has to hold the files twice. Needs nginx, curl and aria2c (Debian: apt-get install nginx-light curl aria2).
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.parts import have, race, start_nginx, timed
from benchmarks.small_files import Ours, check, served

MIB = 1024 * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--mib", type=int, default=1024, help="of one file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, help="MiB a second of one connection; unset: as many as there are")
    parser.add_argument("--folder", help="where to work; /dev/shm takes a slow disk out of the comparison")
    options = parser.parse_args()
    if not have("nginx", "curl", "aria2c", packages="nginx-light curl aria2"):
        return 1
    with tempfile.TemporaryDirectory(prefix="export-benchmark-", dir=options.folder) as folder:
        return run(Path(folder), options.files, options.mib, options.rounds, options.rate)


def run(folder: Path, files: int, mib: int, rounds: int, rate: int | None) -> int:
    source = folder / "source"
    source.mkdir()
    names = [f"{number}.bin" for number in range(files)]
    for name in names:
        with (source / name).open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(MIB))
    nginx, base = start_nginx(folder, served(source, f"limit_rate {rate}m;" if rate else ""))
    urls = [f"{base}/{name}" for name in names]
    ours = Ours(folder, base, names)
    tools = {
        "export-service": ours.export,
        "curl --parallel": timed(lambda out: curl(urls, out)),
        "aria2c -x16": timed(lambda out: aria2(urls, out)),
    }
    try:
        print(f"{files} files of {mib} MiB" + (f", {rate} MiB/s a connection" if rate else ""))
        race(folder / "out", tools, lambda out: check(source, out, names), rounds, files * mib, "MiB")
        for number, peak in enumerate(ours.peaks_mib()):
            print(f"  {'fetch process' if number else 'worker'}, memory, peak  {peak:>7,.0f} MiB")
    finally:
        ours.close()
        nginx.terminate()
        nginx.wait()
    return 0


def curl(urls: list[str], out: Path) -> None:
    subprocess.run(["curl", "-s", "--parallel", "--remote-name-all", *urls], cwd=out, check=True, stderr=subprocess.DEVNULL)


def aria2(urls: list[str], out: Path) -> None:
    listing = out.parent / "aria2.txt"
    listing.write_text("".join(f"{url}\n" for url in urls))
    command = ["aria2c", "-x16", "-s16", f"-j{len(urls)}", "-q", "--file-allocation=none", "--no-conf", f"-d{out}", f"-i{listing}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    raise SystemExit(main())
