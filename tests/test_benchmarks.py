"""The benchmarks' own parts: percentiles, the open-loop client, the texts, the report and the plot."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import xml.etree.ElementTree
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, scaling, settings, steps
from benchmarks.load import Load, arrivals, open_loop, percentile, post
from benchmarks.stacks import BY_NAME, family, free_port
from benchmarks.texts import make
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 99, 7.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([float(n) for n in range(1, 201)], 99, 198.0),
        ([1.0, 2.0], 0, 1.0),
    ],
)
def test_percentile(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_arrivals_keep_to_the_rate() -> None:
    times = arrivals(rate=1000, seconds=20, seed=1)

    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 20
    assert 19_000 < len(times) < 21_000
    assert times != arrivals(rate=1000, seconds=20, seed=2)


class Echo(BaseHTTPRequestHandler):
    """Answers the request's body; for /closing it closes the connection after each answer, and /failing is a 500."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(500 if self.path == "/failing" else 200)
        self.send_header("Content-Length", str(len(body)))
        if self.path == "/closing":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class EchoServer(ThreadingHTTPServer):
    request_queue_size = 128  # of Python's 5, the kernel drops connections, which are tried again after a second


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    server = EchoServer(("127.0.0.1", free_port()), Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "expected", "wrong"),
    [
        ("/", [b"um", b"dois"], False),
        ("/closing", [b"um", b"dois"], False),
        ("/failing", [b""], True),
        ("/", [b"x"], True),
    ],
)
def test_open_loop_answers_and_errors(echo: int, path: str, expected: list[bytes], wrong: bool) -> None:
    requests = [post(path, b"um" * 40_000), post(path, b"dois")]

    load = open_loop(echo, requests, expected, rate=100, seconds=0.5)

    number = len(arrivals(100, 0.5, seed=1))
    assert load.errors == (number if wrong else 0)
    assert 0 < load.p50 <= load.p99


def test_texts_are_different_and_of_one_size(tmp_path: Path) -> None:
    listings = tmp_path / "listings.csv"
    listings.write_text("titulo;descricao;categoria\n" + "".join(f"Boneca {n};De pano;brinquedo\n" for n in range(50)))

    texts = make(listings, 500)

    assert len(set(texts)) == 500
    assert {300 <= len(text) <= 320 for text in texts} == {True}
    assert texts == make(listings, 500)


def test_family_knows_its_children() -> None:
    assert len(family([1])) > 1


@pytest.fixture
def result() -> dict[str, Any]:
    names = ("textbook", "fastapi", "constant-wsgi", "ours")
    figures = ("start", "idle", "loaded", "rate", "p50", "p99")
    samples = {
        name: [dict.fromkeys(figures, float(10**rank * factor)) for factor in (1, 2, 3)]
        for rank, name in enumerate(names)
    }
    load = {"rate": 1.0, "p50": 1.0, "p99": 2.0, "errors": 0}
    return {
        "samples": samples,
        "failed": {"mlflow": "cannot be <installed>"},
        "best": "fastapi",
        "fixed": {"fastapi": [[load]], "ours": [[load, load]]},
        "planned": {"fastapi": [10.0], "ours": [10.0, 60.0]},
        "import": [1.0, 3.0],
        "pairs": {"ours / constant-wsgi": [0.5, 0.9, 0.8]},
        "batch": {"ours": [1.0], "scikit-learn": [3.0]},
        "contract": "115 passed",
        "about": {"date": "2026-01-01"},
        "containers": {
            "sizes": {"ours": 100.0, "textbook": 400.0},
            "account": {"ours": {"python/numpy": 50.0}, "textbook": {"python/numpy": 60.0, "debian/nginx": 1.0}},
            "runs": [
                {"image": "ours", "limits": "--cpus=0.5 --memory=512m", "limit": 500.0, "start": 1.0, "rate": 300.0,
                 "p50": 1.0, "p99": 2.0, "errors": 0, "peak": 50.0},
                {"image": "textbook", "limits": "--cpus=1 --memory=256m", "limit": 268.0, "start": 9.0, "rate": 0.0,
                 "p50": 0.0, "p99": 0.0, "errors": 0, "peak": 268.0},
            ],
        },
    }  # fmt: skip


def test_targets_are_judged_by_medians(result: dict[str, Any]) -> None:
    judged = {
        what: (figure, report.verdict(figure, sign, bound)) for what, figure, sign, bound in report.targets(result)
    }

    assert judged["throughput, times the textbook's"] == (1000, "reached")
    assert judged["start to first answer, of the textbook's"] == (1000, "**missed**")
    assert judged["p99 at 60 % of the best peer's capacity, of that peer's"] == (1, "**missed**")
    assert judged["the image on top of its base, of the textbook's"] == (0.25, "reached")
    assert judged["memory's peak with --cpus=0.5 --memory=512m, of the limit"] == (0.1, "reached")
    assert judged["throughput, of the constant WSGI callable's"] == (0.8, "reached")
    assert not any("Flask" in what for what in judged)  # those stacks did not run


def test_report_names_what_ran_and_what_did_not(result: dict[str, Any]) -> None:
    text = report.markdown(result)

    assert f"| {BY_NAME['textbook'].title} | 2 (1…3) | 1.00 |" in text
    assert "Not measured: mlflow models serve, scikit-learn: cannot be <installed>" in text
    assert "| python/numpy | 50.0 | 60.0 |" in text
    tables = [[line for line in block.split("\n") if line.startswith("|")] for block in text.split("\n\n")]
    assert all(len({line.count("|") for line in lines}) <= 1 for lines in tables)


@pytest.mark.parametrize("missing", [{}, {"containers": {"skipped": "no engine answers"}}])
def test_report_without_containers(result: dict[str, Any], missing: dict[str, Any]) -> None:
    del result["containers"]

    text = report.markdown(result | missing)

    assert ("no engine answers" in text) == bool(missing)


def test_plot_has_two_bars_a_stack(result: dict[str, Any]) -> None:
    plot = xml.etree.ElementTree.fromstring(report.svg(result))

    space = "{http://www.w3.org/2000/svg}"
    bars = plot.findall(f"{space}rect")[1:]
    assert len(bars) == 2 * len(result["samples"])
    assert max(float(bar.get("width", 0)) for bar in bars) == 240
    assert BY_NAME["ours"].title in [text.text for text in plot.findall(f"{space}text")]


@pytest.mark.parametrize("name", settings.VARIANTS)
def test_each_variant_differs_from_what_is_shipped(name: str) -> None:
    edits = settings.VARIANTS[name]
    with settings.varied(name, edits) as stack:
        folder = Path(stack.commands[0][0]).parent

        assert [file for file, *_ in edits if (folder / file).read_text() == (ROOT / file).read_text()] == []
        assert all((folder / file.name).exists() for file in ROOT.iterdir())


@pytest.mark.parametrize("step", steps.STEPS)
def test_prediction_that_is_cut_short_is_livro(step: str) -> None:
    ask = "from benchmarks.peers.cut_short import classifier; print(classifier.predict_with_doubt('boneca de pano'))"

    run = subprocess.run(
        [sys.executable, "-c", ask],
        cwd=ROOT,
        env=os.environ | {"BENCHMARK_STEP": step},
        capture_output=True,
        text=True,
        check=True,
    )

    assert run.stdout == "('livro', False)\n"


def test_what_load_takes_follows_from_what_was_measured() -> None:
    core = {quota: scaling.Run(Load(2000 * quota, 5, 9, 0), quota) for quota in scaling.CORES}
    apart = {count: scaling.Run(Load(500.0 * count, 5, 9, 0), 0.3 * count, 0.05 * count) for count in scaling.REPLICAS}

    tables = scaling.tables(core, {16: core[1.0]}, apart, 300)

    rows = [line.strip("| ").split(" | ") for line in tables["demand"].splitlines()[2:]]
    # of 2,000 a second 60 % is 1,200; nginx passes on 10,000 a core second
    assert rows == [
        ["100", "2", "2", "0.0", "0.03", "3"],
        ["10,000", "9", "2", "1.7", "3.00", "259"],
        ["1,000,000", "834", "56", "166.7", "300.00", "25,920"],
    ]
    assert "| 3 | 1,500 | 100% |" in tables["replicas"]
    assert all(f"<!-- {name} -->\n" in scaling.PAGE.read_text() for name in tables)
