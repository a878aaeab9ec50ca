"""A few large files, end to end, beside the tools people would pick instead. Prints medians and ratios.

    ./dev benchmark large_files [--files 4] [--mib 1024] [--rounds 3] [--rate 20] [--folder /dev/shm]

As benchmarks/small_files.py, whose parts it uses: one worker, from StartExecution to SUCCEEDED, against each command's own run, in turn,
every file compared with its source. `--rate` makes nginx send that many MiB a second through each connection, as object stores and distant
servers do. The folder has to hold the files twice. Needs nginx, curl and aria2c (Debian: apt-get install nginx-light curl aria2).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.small_files import Ours, check, start_nginx

TOOLS = ("nginx", "curl", "aria2c")
MIB = 1024 * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--mib", type=int, default=1024, help="of one file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, help="MiB a second of one connection; unset: as many as there are")
    parser.add_argument("--folder", help="where to work; /dev/shm takes a slow disk out of the comparison")
    options = parser.parse_args()
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        print(f"missing: {', '.join(absent)}. Debian: apt-get install nginx-light curl aria2", file=sys.stderr)
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
    nginx, base = start_nginx(folder, source, f"limit_rate {rate}m;" if rate else "")
    urls = [f"{base}/{name}" for name in names]
    peers: dict[str, Callable[[Path], None]] = {
        "curl --parallel": lambda out: curl(urls, out),
        "aria2c -x16": lambda out: aria2(urls, out),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("export-service", *peers)}
    ours = Ours(folder, base, names)
    try:
        for number in range(rounds):
            for name in seconds:
                out = folder / "out"
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
                started = time.monotonic()
                if name == "export-service":
                    taken = ours.export(out)
                else:
                    peers[name](out)
                    taken = time.monotonic() - started
                check(source, out, names)
                seconds[name].append(taken)
                print(f"round {number + 1}: {name:<18} {files * mib / taken:>7,.0f} MiB/s  {taken:.2f} s", flush=True)
        rates = {name: files * mib / statistics.median(taken) for name, taken in seconds.items()}
        print(f"\nmedian of {rounds} rounds, {files} files of {mib} MiB" + (f", {rate} MiB/s a connection" if rate else ""))
        for name, reached in rates.items():
            print(f"  {name:<18} {reached:>7,.0f} MiB/s   export-service is {rates['export-service'] / reached:.2f} x of it")
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
