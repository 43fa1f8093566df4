"""nginx and the API apart, as `entrypoint.sh web` and `entrypoint.sh api`: first on this machine, the API alone too."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server, free_port, leftovers, running
from tests.load import Load
from tests.problems import assert_problem
from tests.test_server import JSON_POST, workers

HEAD = b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("api"), ROOT, "api", WEB_CONCURRENCY="2") as server:
        yield server


@pytest.fixture(scope="module")
def web(api: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("web")
    with running(folder, ROOT, "web", API=f"127.0.0.1:{api.port}", RATE_LIMIT="0") as server:
        yield server


def test_both_answer_as_the_whole_does(server: Server, web: Server, api: Server) -> None:
    for method, path, body in [
        ("POST", "/api/predizer_categoria", '{"descricao":"boneca de pano"}'),
        ("POST", "/api/predizer_categoria", '{"titulo":"Boneca","descricao":"de pano"}'),
        ("POST", "/api/predizer_categoria?detalhes=1", '{"descricao":"boneca de pano"}'),
        ("GET", "/api/modelo", None),
        ("GET", "/api/health", None),
    ]:
        answers = [each.request(method, path, body, Content_Type="application/json") for each in (server, web, api)]
        assert [answer.status for answer in answers] == [200] * 3
        assert answers[0].body == answers[1].body == answers[2].body

    assert web.request("GET", "/cadastro.html").body == server.request("GET", "/cadastro.html").body


def test_an_answer_comes_in_one_piece_so_that_a_killed_worker_leaves_none_or_all_of_it(api: Server) -> None:
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
            connection.sendall(JSON_POST + b'Content-Length: 22\r\n\r\n{"descricao":"boneca"}')
            assert connection.recv(65536).endswith(b'{"categoria":"brinquedo"}\n')


@pytest.mark.parametrize("role", ["web", "api"])
@pytest.mark.parametrize(
    ("request_bytes", "status", "campo"),
    [
        (b"GET /api/nada" + HEAD + b"\r\n", 404, None),
        (b"GET /api" + HEAD + b"\r\n", 404, None),
        (b"GET /api/api/health" + HEAD + b"\r\n", 404, None),
        (b"GET /api/predizer_categoria" + HEAD + b"\r\n", 405, None),
        (b"OPTIONS /api/modelo" + HEAD + b"\r\n", 405, None),
        (b"LIXO\r\n\r\n", 400, None),
        (b"GET /api/" + b"a" * 5000 + HEAD + b"\r\n", 414, None),
        (b"GET /api/modelo" + HEAD + b"Cookie: " + b"a" * 5000 + b"\r\n\r\n", 431, None),
        (JSON_POST + b"Content-Length: x\r\n\r\n", 400, None),
        (JSON_POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, None),
        (JSON_POST + b"Transfer-Encoding: lixo\r\nConnection: close\r\n\r\n", 501, None),
        (JSON_POST + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}", 422, "descricao"),
        (JSON_POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 422, "descricao"),
        (JSON_POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nx\r\n", 400, None),
        (JSON_POST + b"Content-Length: 262145\r\nConnection: close\r\n\r\n" + b" " * 262145, 413, None),
        (b"POST /api/nada" + HEAD + b"Content-Length: 262145\r\n\r\n" + b" " * 262145, 413, None),
        (JSON_POST + b"Content-Length: 1000000\r\nConnection: close\r\n\r\n" + b" " * 1000000, 413, None),
        (
            JSON_POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"40001\r\n" + b" " * 0x40001 + b"\r\n0\r\n\r\n",
            413,
            None,
        ),
    ],
)
def test_errors_are_the_same_problems(
    web: Server, api: Server, role: str, request_bytes: bytes, status: int, campo: str | None
) -> None:
    head, _, body = (web if role == "web" else api).raw(request_bytes).partition(b"\r\n\r\n")

    status_line, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert_problem(int(status_line.split()[1]), headers, json.loads(body), status, campo)


@pytest.mark.parametrize("role", ["web", "api"])
@pytest.mark.parametrize("path", ["/api/health", "/api/nada"])
def test_every_answer_of_the_api_has_its_headers_once(web: Server, api: Server, role: str, path: str) -> None:
    asked = web if role == "web" else api
    kept, made = (asked.request("GET", path, X_Request_ID=given).headers for given in ("abc-1.x_Y", "a b"))

    assert kept.get_all("X-Request-ID") == ["abc-1.x_Y"]
    assert re.fullmatch("[0-9a-f]{32}", ",".join(made.get_all("X-Request-ID", [])))
    assert kept.get_all("Cache-Control") == made.get_all("Cache-Control") == ["no-store"]


def test_what_only_nginx_may_say_is_not_believed(web: Server, api: Server) -> None:
    for each in (web, api):
        for value in ["1", "x"]:
            assert each.predict("boneca de pano", X_Queued_At=value, Script_Name="/x").status == 200


def test_api_alone_serves_no_page_and_no_other_path(api: Server) -> None:
    for path in ["/", "/cadastro.html", "/health", "/apis/health"]:
        answer = api.request("GET", path)
        assert_problem(answer.status, answer.headers, answer.json(), 404)


def test_client_that_stops_sending_costs_a_worker_two_seconds_and_not_its_life(api: Server) -> None:
    before = workers(api, 2)
    connections = [socket.create_connection(("127.0.0.1", api.port), timeout=10) for _ in range(3)]
    for connection, sent in zip(connections, [b"", b"GET /", JSON_POST + b"Content-Length: 9\r\n\r\n{"], strict=True):
        connection.sendall(sent)
    answers = []
    for connection in connections:
        with connection:
            answers.append(b"".join(iter(lambda: connection.recv(65536), b"")))  # noqa: B023 # read at once

    assert [answer.split()[1] for answer in answers] == [b"408"] * 3
    assert workers(api, 2) == before


def test_a_request_of_the_api_alone_is_a_line_as_nginx_writes_it(server: Server, tmp_path: Path) -> None:
    def ask(asked: Server) -> None:
        asked.predict("boneca", X_Request_ID="a-1", X_Forwarded_For="198.51.100.1, 203.0.113.7")
        asked.request("GET", "/api/nada?boneca", X_Request_ID="a-2")

    with running(tmp_path, ROOT, "api") as alone:
        ask(alone)
        ask(server)
    lines = [json.loads(line) for line in alone.stdout.read_text().splitlines()]
    last = [json.loads(line) for line in server.log().splitlines()[-2:]]

    assert "boneca" not in alone.stdout.read_text()
    assert [list(line) for line in lines] == [list(line) for line in last]
    for name in ["request_id", "method", "path", "status", "bytes", "categoria", "incerto"]:
        assert [line[name] for line in lines] == [line[name] for line in last]
    assert [line["client"] for line in lines] == ["203.0.113.7", "127.0.0.1"]


def test_api_alone_opens_its_port_when_it_can_predict(tmp_path: Path) -> None:
    server = Server(tmp_path, ROOT, None, "api")
    try:
        server.wait_until_open()
        assert server.predict("boneca de pano").json() == {"categoria": "brinquedo"}
    finally:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0


@pytest.mark.parametrize("everyone", [False, True], ids=["to the first process", "to every process, thrice"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_stop_of_the_api_alone_loses_nothing(sent: signal.Signals, everyone: bool, stops: int, tmp_path: Path) -> None:
    answered, slowest = 0, 0.0
    for _ in range(stops):
        with running(tmp_path, ROOT, "api") as server, Load(server.port, 16) as load:
            while load.statuses.total() < 200:
                assert server.process.poll() is None
            begun = time.monotonic()
            for pid in list(server.family()) * 3 if everyone else [server.process.pid]:
                os.kill(pid, sent)
            assert server.process.wait(10) == 0
            seconds = time.monotonic() - begun

        assert (load.reset, load.cut, set(load.statuses)) == ([], [], {200})
        assert seconds < 4
        assert leftovers(server) == []
        answered, slowest = answered + load.statuses.total(), max(slowest, seconds)
    print(f"\n{stops} stops, {answered} accepted and answered, 0 lost, slowest exit {slowest:.1f} s")


def test_stop_of_the_api_alone_waits_for_what_a_busy_worker_has_not_read(tmp_path: Path) -> None:
    with running(tmp_path, ROOT, "api", WEB_CONCURRENCY="1") as server:
        (worker,) = workers(server, 1)
        os.kill(worker, signal.SIGSTOP)
        with Load(server.port, 16) as load:
            waiting = f"ss -Htn state established sport = :{server.port} | wc -l"
            while int(subprocess.run(waiting, shell=True, capture_output=True, text=True, check=True).stdout) < 16:
                assert server.process.poll() is None
            server.process.send_signal(signal.SIGTERM)
            assert not server.process_ended_within(0.5)
            os.kill(worker, signal.SIGCONT)
            assert server.process.wait(10) == 0

    assert (load.reset, load.cut) == ([], [])
    assert load.statuses == {200: 16}


def test_web_without_an_answer_says_so(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    with (
        running(tmp_path, ROOT, "api", WEB_CONCURRENCY="1") as api,
        running(tmp_path / "web", ROOT, "web", API=f"127.0.0.1:{api.port}") as web,
    ):
        (worker,) = workers(api, 1)
        os.kill(worker, signal.SIGSTOP)
        begun = time.monotonic()
        busy = web.predict("boneca")
        seconds = time.monotonic() - begun
        os.kill(worker, signal.SIGCONT)
        api.process.send_signal(signal.SIGTERM)
        assert api.process.wait(10) == 0
        gone = web.predict("boneca")

    assert_problem(busy.status, busy.headers, busy.json(), 503)
    assert busy.headers["Retry-After"] == "1"
    assert seconds < 3
    assert_problem(gone.status, gone.headers, gone.json(), 502)


def test_web_opens_its_port_when_the_api_can_predict(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "api").mkdir()
    web = Server(tmp_path, ROOT, None, "web", API=f"127.0.0.1:{port}")
    try:
        assert not web.process_ended_within(1)
        with pytest.raises(ConnectionRefusedError):
            web.predict("boneca")
        with running(tmp_path / "api", ROOT, "api", PORT=str(port)):
            web.wait_until_open()
            assert web.predict("boneca de pano").json() == {"categoria": "brinquedo"}
    finally:
        web.process.send_signal(signal.SIGTERM)
        assert web.process.wait(10) == 0


@pytest.mark.parametrize(("role", "api"), [("nada", "api:8080"), ("web", "api"), ("web", "a;b:1"), ("web", "")])
def test_role_and_api_that_are_none_are_refused(role: str, api: str) -> None:
    ended = subprocess.run(
        [ROOT / "entrypoint.sh", role], env=os.environ | {"API": api}, capture_output=True, text=True
    )

    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (64, "", 1)
