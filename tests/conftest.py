"""Fixtures that several test files share: small models as files, the app on one of them, and the real server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pickle
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Browser, sync_playwright
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

import standalone
from app import create_app

ROOT = Path(__file__).parent.parent
# A suite that was started in the background inherits an ignored SIGINT, which the shells it starts could not trap.
signal.signal(signal.SIGINT, signal.default_int_handler)
TEXTS = ["boneca de pano", "carrinho de brinquedo", "livro de receitas", "romance de época", "batom vermelho", "base"]
CATEGORIES = ["brinquedo", "brinquedo", "livro", "livro", "maquiagem", "maquiagem"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as a reader of the book would pickle it, of three categories and without a card."""
    vect = CountVectorizer()
    clf = MultinomialNB().fit(vect.fit_transform(TEXTS), CATEGORIES)
    path = tmp_path_factory.mktemp("tiny") / "model.sav"
    path.write_bytes(pickle.dumps({"vect": vect, "clf": clf}))
    return path


@pytest.fixture(scope="session", params=[True, False], ids=["hot path", "Flask alone"])
def client(request: pytest.FixtureRequest, tiny_model: Path) -> FlaskClient:
    """The app on the tiny model, without nginx, with the hot path in front of Flask and without."""
    return client_of(create_app(tiny_model, hot=request.param))


def client_of(app: Flask) -> FlaskClient:
    """Return a client of the app with the headers that nginx adds, or standalone.py."""
    app.wsgi_app = standalone.with_own_headers(app.wsgi_app)  # type: ignore[assignment,method-assign]
    return app.test_client()


class Answer:
    """An HTTP answer, read whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """entrypoint.sh as a process of this machine, serving on a free port."""

    def __init__(
        self, log: Path, root: Path = ROOT, stdout: int | None = None, *roles: str, **environment: str
    ) -> None:
        self.port = int(environment.setdefault("PORT", str(free_port())))
        self.url = f"http://127.0.0.1:{self.port}"
        self.stdout, self.stderr = log / "stdout", log / "stderr"
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [root / "entrypoint.sh", *roles],
                env={**os.environ, **environment},
                stdout=stdout or out.fileno(),
                stderr=err,
            )

    def wait_until_open(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            self.process_ended_within(0.02)
        raise AssertionError(f"the server did not start: {self.stderr.read_text()}")

    def process_ended_within(self, seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None

    def family(self) -> dict[int, tuple[int, str]]:
        """Return the pids of all its processes, parents first, each with its parent's and its command's name."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True)
        processes = {int(pid): (int(parent), name) for pid, parent, name in map(str.split, listed.stdout.splitlines())}
        found = {self.process.pid: processes[self.process.pid]}
        while more := {pid: of for pid, of in processes.items() if of[0] in found and pid not in found}:
            found |= more
        return found

    def children(self, name: str) -> list[int]:
        """Return the pids of the master processes of that name."""
        family = self.family()
        return [pid for pid, (parent, mine) in family.items() if mine == name and family[parent][1] != name]

    def log(self) -> str:
        """Return the access log, with what nginx held back for a moment (see `default`)."""
        time.sleep(0.1)
        return self.stdout.read_text()

    def request(self, method: str, path: str, body: bytes | str | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            return Answer(connection.getresponse())

    def predict(self, descricao: str, **headers: str) -> Answer:
        body = json.dumps({"descricao": descricao})
        return self.request("POST", "/api/predizer_categoria", body, Content_Type="application/json", **headers)

    def raw(self, request: bytes) -> bytes:
        """Send bytes as they are and return all that comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(request)
            return b"".join(iter(lambda: connection.recv(65536), b""))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def leftovers(server: Server) -> list[str]:
    """Return what still runs of a server that has ended, its killed workers given a moment to be gone: its processes
    have its port in their environment.
    """
    deadline = time.monotonic() + 10
    while True:
        found = []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdecimal() and f"PORT={server.port}\0" in (process / "environ").read_text():
                    found.append((process / "cmdline").read_text())
        if not found or time.monotonic() > deadline:
            return found


@contextlib.contextmanager
def running(log: Path, root: Path = ROOT, *roles: str, **environment: str) -> Iterator[Server]:
    """Start a server, or one of the roles alone, wait for its port, and end it, whatever happens."""
    server = Server(log, root, None, *roles, **environment)
    try:
        server.wait_until_open()
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        if not server.process_ended_within(10):
            server.process.kill()
            raise AssertionError(f"the server did not stop: {server.stderr.read_text()}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shipped model behind the real nginx and gunicorn, without the rate limit."""
    with running(tmp_path_factory.mktemp("server"), RATE_LIMIT="0") as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--texts", type=int, default=20_000, help="texts on which compiled models are compared (make soak)"
    )
    parser.addoption("--stops", type=int, default=1, help="stops under each load, for each signal (make soak)")
    parser.addoption("--requests", type=int, default=4_000, help="requests that are generated (make soak)")
    parser.addoption("--minutes", type=float, default=0, help="load that must not make memory grow (make soak)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms to make soak, which says --minutes."""
    long = [] if config.getoption("minutes") else [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def stops(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("stops"))


@pytest.fixture(scope="session")
def texts(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("texts"))


@pytest.fixture(scope="session")
def requests(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("requests"))


@pytest.fixture(scope="session")
def minutes(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("minutes"))
