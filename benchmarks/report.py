"""Writes what was measured as Markdown and as a plot."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import statistics
import subprocess
from collections.abc import Callable
from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.stacks import BY_NAME, MODEL, STACKS

Result = dict[str, Any]
SIGNS = {">=": "≥", "<=": "≤"}
ONLY_FOR_SKLEARN = {"sklearn", "scipy", "scipy.libs", "joblib", "narwhals", "threadpoolctl", "cloudpickle"}
FIGURES = {"p50": 1, "p99": 1, "start": 2, "idle": 0, "loaded": 0}  # with their digits
PAIRS = {
    "ours / constant-wsgi": ("throughput, of the constant WSGI callable's", 0.7),
    "ours-flask / constant-flask": ("throughput of the Flask route, of a constant Flask route's", 0.85),
    "ours / fastapi-ours": ("throughput, times FastAPI's with our scorer", 1),
}
METHOD = """All stacks serve the same `model.sav`, one at a time, on this machine together with the load: `wrk` with
16 connections, each request another text of about 300 characters, joined from listings that the model was trained on,
so that nearly all their words are known. Ours runs with `RATE_LIMIT=0`. A sample of the answers is
compared with scikit-learn's own during each run. Figures are medians over the rounds (lowest…highest); MB is 1,000,000
bytes of PSS, all processes of the stack.
"""


def median(result: Result, name: str, key: str) -> float:
    """Return the median over the rounds of one figure of one stack."""
    return float(statistics.median(sample[key] for sample in result["samples"][name]))


def spread(values: list[float], digits: int = 0) -> str:
    """Return the median of the values with their range, as text."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}…{high:,.{digits}f})"


def about(began: datetime, rounds: int, seconds: int, command: str) -> dict[str, str]:
    """Return what a reader needs to measure again."""
    nginx = subprocess.run(["nginx", "-v"], stderr=subprocess.PIPE, text=True).stderr.strip().rpartition("/")[2]
    names = ("flask", "gunicorn", "numpy", "scikit-learn")
    with open("/proc/cpuinfo") as file:
        processor = next((line.partition(": ")[2].strip() for line in file if line.startswith("model name")), "?")
    load = subprocess.run(["uptime"], stdout=subprocess.PIPE, text=True).stdout.rpartition("load average: ")[2].strip()
    return {
        "date": f"{began:%Y-%m-%d %H:%M} UTC",
        "command": f"`{command}`: {rounds} rounds over all stacks, {seconds} s of load each",
        "machine": f"{platform.machine()}, {processor}, Linux {platform.release()}; load average at the end {load}",
        "versions": f"Python {platform.python_version()}, nginx {nginx}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
        + "".join(f", {pin.replace('==', ' ')}" for s in STACKS for pin in s.pins[:1] if "-" not in s.name),
        "model": f"SHA-256 {model_sha256()}",
    }


def model_sha256() -> str:
    return hashlib.sha256(MODEL.read_bytes()).hexdigest()


def targets(result: Result) -> list[tuple[str, float, str, float]]:
    """Return the goals that this run can judge: what, the figure, >= or <=, and the bound."""
    samples = result["samples"]
    best = result["best"]
    found: list[tuple[str, float, str, float]] = []

    def ratio(what: str, name: str, other: str, key: str, sign: str, bound: float) -> None:
        if name in samples and other in samples:
            found.append((what, median(result, name, key) / median(result, other, key), sign, bound))

    ratio("throughput, times the textbook's", "ours", "textbook", "rate", ">=", 4)
    ratio(f"throughput, times the best peer's ({BY_NAME[best].title})", "ours", best, "rate", ">=", 2.5)
    for pair, (what, bound) in PAIRS.items():
        if pair in result["pairs"]:
            found.append((what, statistics.median(result["pairs"][pair]), ">=", bound))
    p99 = {name: statistics.median(loads[0]["p99"] for loads in all_) for name, all_ in result["fixed"].items()}
    found.append(("p99 at 60 % of the best peer's capacity, of that peer's", p99["ours"] / p99[best], "<=", 0.5))
    ratio("start to first answer, of the textbook's", "ours", "textbook", "start", "<=", 0.3)
    imported = statistics.median(result["import"])
    found.append(("start, of `import sklearn` in Python", median(result, "ours", "start") / imported, "<=", 0.5))
    ratio("memory under load, of the textbook's", "ours", "textbook", "loaded", "<=", 0.2)
    batch = {who: statistics.median(seconds) for who, seconds in result["batch"].items()}
    found.append(
        ("10,000 texts in one process, times scikit-learn's one call", batch["scikit-learn"] / batch["ours"], ">=", 2)
    )
    for run in result.get("containers", {}).get("runs", []):
        if run["image"] == "ours":
            found.append((f"memory's peak with {run['limits']}, of the limit", run["peak"] / run["limit"], "<=", 0.6))
            if "--cpus=0.5" in run["limits"]:
                found.append(("start on half a core, s", run["start"], "<=", 3))
    sizes = result.get("containers", {}).get("sizes", {})
    if sizes:
        found.append(("the image on top of its base, of the textbook's", sizes["ours"] / sizes["textbook"], "<=", 0.75))
    return found


def table(head: str, rows: list[list[str]]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|---" * columns + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def markdown(result: Result) -> str:
    """Return the whole report."""
    samples = result["samples"]
    named = [(stack.name, stack.title) for stack in STACKS if stack.name in samples]
    first = median(result, "textbook", "rate")

    def cell(name: str, key: str, digits: int) -> str:
        return spread([sample[key] for sample in samples[name]], digits)

    parts = [
        "# Benchmarks\n",
        "Written by `make bench`, which installs the peers too; `make bench-quick` compares four stacks.\n",
        *(f"- {key}: {value}" for key, value in result["about"].items()),
        "",
        METHOD,
        table(
            "stack | requests/s | times the textbook's | p50 ms | p99 ms | start, s | idle, MB | under load, MB",
            [
                [title, cell(name, "rate", 0), f"{median(result, name, 'rate') / first:.2f}"]
                + [cell(name, key, digits) for key, digits in FIGURES.items()]
                for name, title in named
            ],
        ),
    ]
    parts += [f"Not measured: {BY_NAME[name].title}: {why}\n" for name, why in result["failed"].items()]
    if "containers" in result:
        parts.append("![Throughput and memory of each stack](results.svg)\n")
    batch = {who: spread(seconds, 2) for who, seconds in result["batch"].items()}
    parts += [
        "## What is asked for\n",
        table(
            "what | is | should be | ",
            [
                [what, f"{figure:.2f}", f"{SIGNS[sign]} {bound:g}", verdict(figure, sign, bound)]
                for what, figure, sign, bound in targets(result)
            ],
        ),
        *(
            f"{PAIRS[pair][0].replace('t', 'T', 1)}, by {len(ratios)} turns of a second each while both run: "
            f"{spread(ratios, 2)}.\n"
            for pair, ratios in result["pairs"].items()
        ),
        f"`import sklearn` in Python takes {spread(result['import'], 2)} s. 10,000 texts in one process take ours "
        f"{batch['ours']} s, and scikit-learn's one call {batch['scikit-learn']} s. The FastAPI peer with our scorer "
        f"serves the same contract: `pytest benchmarks/test_contract.py`: {result['contract']}.\n",
        "## Latency at a fixed rate\n",
        "Requests arrive by a Poisson process, whatever the answers do; latency counts from when one was due.\n",
        table(
            "stack | arrivals/s | p50 ms | p99 ms | not answered rightly",
            [
                [
                    BY_NAME[name].title,
                    f"{rate:,.0f}",
                    *(spread([loads[at][key] for loads in runs], 1) for key in ("p50", "p99")),
                    str(sum(loads[at]["errors"] for loads in runs)),
                ]
                for name, runs in result["fixed"].items()
                for at, rate in enumerate(result["planned"][name])
            ],
        ),
    ]
    containers = result.get("containers", {})
    if "skipped" in containers:
        parts.append(f"## The image\n\nNot measured: {containers['skipped']}.\n")
    elif containers:
        parts += container_parts(containers)
    return "\n".join(parts)


def container_parts(containers: dict[str, Any]) -> list[str]:
    sizes, account = containers["sizes"], containers["account"]
    fallback = sum(mb for name, mb in account["ours"].items() if name.removeprefix("python/") in ONLY_FOR_SKLEARN)
    names = sorted(set(account["ours"]) | set(account["textbook"]), key=lambda name: -account["ours"].get(name, 0))
    return [
        "## Half a core\n",
        "The images under a small plan's limits, with the load outside. Start counts from the container's own start; "
        "memory is the cgroup's peak without the files that it caches; a rate of 0 is a server killed at its limit.\n",
        table(
            "image | limits | start, s | requests/s | p50 ms | p99 ms | peak, MB | of the limit",
            [
                [run["image"], run["limits"], run["failed"], *("–" for _ in range(5))]
                if "failed" in run
                else [
                    run["image"],
                    run["limits"],
                    f"{run['start']:.2f}",
                    f"{run['rate']:,.0f}",
                    f"{run['p50']:.1f}",
                    f"{run['p99']:.1f}",
                    f"{run['peak']:.0f}",
                    f"{run['peak'] / run['limit']:.0%}",
                ]
                for run in containers["runs"]
            ],
        ),
        "## The image\n",
        f"On top of its base, python:3.13-slim, ours adds {sizes['ours']:.0f} MB and the textbook's "
        f"{sizes['textbook']:.0f} MB. Of ours, {fallback:.0f} MB are scikit-learn with what only it needs, which "
        "serve a model that cannot be compiled, and compile one that is mounted at run time. By package, in MB of "
        "files, from 0.5 MB on:\n",
        table(
            "package | ours | textbook's",
            [[name, *(f"{account[image].get(name, 0):.1f}" for image in ("ours", "textbook"))] for name in names],
        ),
    ]


def verdict(figure: float, sign: str, bound: float) -> str:
    reached = figure >= bound if sign == ">=" else figure <= bound
    return "reached" if reached else "**missed**"


def svg(result: Result) -> str:
    """Return two bar charts, beside each other: requests a second, and MB under load."""
    names = [stack.name for stack in STACKS if stack.name in result["samples"]]
    height = 24 * len(names) + 56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="1000" height="{height}" fill="#fff"/>',
    ]
    charts: list[tuple[str, int, Callable[[str], float]]] = [
        ("requests/s", 330, lambda name: median(result, name, "rate")),
        ("MB under load (PSS)", 680, lambda name: median(result, name, "loaded")),
    ]
    for row, name in enumerate(names):
        parts.append(f'<text x="320" y="{62 + 24 * row}" text-anchor="end">{escape(BY_NAME[name].title)}</text>')
    for title, left, value in charts:
        parts.append(f'<text x="{left}" y="28" font-weight="bold">{title}</text>')
        largest = max(map(value, names))
        for row, name in enumerate(names):
            width = 240 * value(name) / largest
            color = "#0a7d4b" if name.startswith("ours") else "#8a94a6"
            y = 46 + 24 * row
            parts.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="18" fill="{color}"/>')
            parts.append(f'<text x="{left + width + 6:.1f}" y="{y + 14}">{value(name):,.0f}</text>')
    return "\n".join([*parts, "</svg>", ""])
