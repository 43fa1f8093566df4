"""Measures the settings of gunicorn and nginx against others: python -m benchmarks.settings writes settings.md."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks import report
from benchmarks.run import measure, undisturbed, write_bodies
from benchmarks.stacks import BY_NAME, CORES, OURS, ROOT, Stack, StackError, free_port
from benchmarks.texts import with_answers

Edit = tuple[str, str, str]  # a file, a pattern that must match in it, and what takes its place
SYNC = "(?m)^worker_class: .*"
BACK = free_port()
VARIANTS: dict[str, list[Edit]] = {
    "as shipped": [],
    "1 worker": [("gunicorn.conf.py", "(?m)^workers = .*", "workers = 1")],
    "3 workers": [("gunicorn.conf.py", "(?m)^workers = .*", "workers = 3")],
    "4 workers": [("gunicorn.conf.py", "(?m)^workers = .*", "workers = 4")],
    "gthread, 1 thread": [("gunicorn.conf.py", SYNC, 'worker_class = "gthread"\nthreads = 1')],
    "gthread, 4 threads": [("gunicorn.conf.py", SYNC, 'worker_class = "gthread"\nthreads = 4')],
    "no preload": [("gunicorn.conf.py", "preload_app = True", "preload_app = False")],
    "no gc.freeze": [("gunicorn.conf.py", r"gc\.freeze\(\)", "pass")],
    "TCP in place of the unix socket": [
        ("launch.py", r"unix:\{run\}/app\.sock", f"127.0.0.1:{BACK}"),
        ("default", r"unix:\$RUN/app\.sock", f"127.0.0.1:{BACK}"),
    ],
    "2 nginx workers": [("nginx.conf", "worker_processes 1", "worker_processes 2")],
    "nginx buffers no answer": [("default", "proxy_max_temp_file_size 0;", r"\g<0> proxy_buffering off;")],
    "nginx writes each line of its log at once": [("default", " buffer=4k flush=10ms", "")],
    "no log": [("default", "access_log /dev/stdout [^;]*", "access_log off")],
    "no pcre_jit": [("nginx.conf", "pcre_jit on;", "")],
}


@contextmanager
def varied(name: str, edits: list[Edit]) -> Iterator[Stack]:
    """Give the stack of a folder that holds the product, links but for the files that are edited."""
    with tempfile.TemporaryDirectory(prefix="benchmark.") as path:
        folder = Path(path)
        folder.chmod(0o755)  # nginx's worker is nobody where it was started by root
        for entry in ROOT.iterdir():
            (folder / entry.name).symlink_to(entry)
        for file, pattern, by in edits:
            text, count = re.subn(pattern, by, (folder / file).read_text())
            if not count:
                sys.exit(f"{name}: {file} holds no {pattern}")
            mode = (folder / file).stat().st_mode
            (folder / file).unlink()
            (folder / file).write_text(text)
            (folder / file).chmod(mode)
        yield replace(BY_NAME["ours"], commands=[[part.replace("$ROOT", path) for part in OURS]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each load")
    options = parser.parse_args()
    began, pairs = datetime.now(UTC), with_answers()
    write_bodies(BY_NAME["ours"], pairs)
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for number in range(options.rounds):
        for name, edits in VARIANTS.items():
            with varied(name, edits) as stack:
                try:
                    sample = undisturbed(partial(measure, stack, pairs, options.seconds, number * 11_000))
                except StackError as error:
                    sys.exit(f"{name}: {error}")
            samples[name].append(sample)
            print(number + 1, name, {key: round(value, 2) for key, value in sample.items()}, flush=True)
    shipped = [sample["rate"] for sample in samples["as shipped"]]
    rows = []
    for name, found in samples.items():
        ratios = [sample["rate"] / at for sample, at in zip(found, shipped, strict=True)]
        rest = [report.spread([sample[key] for sample in found], digits) for key, digits in report.FIGURES.items()]
        rows.append([name, report.spread(ratios, 2), *rest])
    about = report.about(began, options.rounds, options.seconds, "make bench-settings")
    text = [
        "# Settings\n",
        "Written by `make bench-settings`: ours with one setting otherwise, interleaved; its throughput is stated as a",
        f"share of that as shipped in the same round. As shipped: {CORES} cores, a worker each, two at least.\n",
        *(f"- {key}: {value}" for key, value in about.items()),
        "",
        report.table("setting | requests/s, of shipped | p50 ms | p99 ms | start, s | idle, MB | under load, MB", rows),
    ]
    (ROOT / "benchmarks/settings.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
