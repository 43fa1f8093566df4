"""The real nginx and gunicorn, through entrypoint.sh, on a free port of this machine."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Answer, Server, free_port, leftovers, running
from tests.problems import assert_problem

HEAD_END = b"\r\nConnection: close\r\n\r\n"
JSON_POST = b"POST /api/predizer_categoria HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module", autouse=True)
def idle_connection(server: Server) -> Iterator[tuple[http.client.HTTPConnection, float]]:
    """A connection that answered once and is then left alone, with the time of that answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/api/health")
    assert Answer(connection.getresponse()).status == 200
    with contextlib.closing(connection):
        yield connection, time.monotonic()


def assert_nginx_problem(answer: bytes, status: int) -> dict[str, str]:
    """Check a raw answer that nginx made; return its headers."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert_problem(int(status_line.split()[1]), headers, json.loads(body), status)
    return headers


def test_page_and_api_share_one_origin(server: Server) -> None:
    page = server.request("GET", "/cadastro.html")
    answer = server.predict("boneca de pano")

    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert (answer.status, answer.body) == (200, b'{"categoria":"brinquedo"}\n')


def test_root_leads_to_the_page_wherever_the_router_is(server: Server) -> None:
    answer = server.request("GET", "/", Host="loja.example", X_Forwarded_Proto="https")

    assert (answer.status, answer.headers["Location"]) == (302, "/cadastro.html")


@pytest.mark.parametrize("path", ["/api/nada", "/api/", "/api/predizer_categoria/", "/api/cadastro.html"])
def test_unknown_path_of_the_api(server: Server, path: str) -> None:
    answer = server.request("GET", path)

    assert_problem(answer.status, answer.headers, answer.json(), 404)


@pytest.mark.parametrize(
    "path", ["/nada", "/app.py", "/model.sav", "/api/../app.py", "/.git/config", "/problem", "/webclient/"]
)
def test_page_that_is_not_there_and_files_that_are_not_served(server: Server, path: str) -> None:
    answer = server.request("GET", path)

    assert (answer.status, answer.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert b"<html" in answer.body


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"LIXO\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /api/health HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /../app.py HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400),
        (b"GET /api/%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400),
        (JSON_POST + b"Content-Length: x\r\n\r\n", 400),
        (JSON_POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (JSON_POST + b"Transfer-Encoding: gzip\r\nConnection: close\r\n\r\n", 501),
        (JSON_POST + b"Content-Length: 300000\r\nConnection: close\r\n\r\n", 413),
        (b"GET /api/%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 5000), 414),
        (b"GET /api/health HTTP/1.1\r\nHost: a\r\nCookie: %s\r\n\r\n" % (b"a" * 5000), 431),
        (b"GET /api/health HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    ],
)
def test_error_that_nginx_makes_is_a_problem_too(server: Server, request_bytes: bytes, status: int) -> None:
    assert_nginx_problem(server.raw(request_bytes), status)


@pytest.mark.parametrize(
    ("request_bytes", "allow"),
    [
        (b"TRACE /api/predizer_categoria HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", {"POST"}),
        (b"A /api/predizer_categoria?x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", {"POST"}),
        (b"OPTIONS /api/predizer_categoria HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", {"POST"}),
        (
            b"LONGER-THAN-TWENTY-LETTERS /api/modelo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            {"GET", "HEAD"},
        ),
        (b"DELETE /cadastro.html HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", {"GET", "HEAD"}),
    ],
)
def test_another_method(server: Server, request_bytes: bytes, allow: set[str]) -> None:
    headers = assert_nginx_problem(server.raw(request_bytes), 405)

    assert {method.strip() for method in headers["Allow"].split(",")} == allow


@pytest.mark.parametrize(
    ("body", "content_type", "status", "campo"),
    [
        (b"{", "application/json", 400, None),
        (b"{}", "application/json", 422, "descricao"),
        (b"{}", "text/plain", 415, None),
        (b" " * (256 * 1024 + 1), "application/json", 413, None),
    ],
)
def test_error_of_the_app_comes_through(
    server: Server, body: bytes, content_type: str, status: int, campo: str | None
) -> None:
    answer = server.request("POST", "/api/predizer_categoria", body, Content_Type=content_type)

    assert_problem(answer.status, answer.headers, answer.json(), status, campo)


def test_longest_text_in_its_longest_form_is_within_the_limits(server: Server) -> None:
    body = json.dumps({"titulo": "\U0001f600" * 500, "descricao": "\U0001f600" * 19_993 + " boneca"})

    answer = server.request("POST", "/api/predizer_categoria?detalhes=1", body, Content_Type="application/json")

    assert answer.status == 200, answer.body


def test_gunicorn_takes_all_the_headers_that_nginx_lets_through(server: Server) -> None:
    head = JSON_POST + b"".join(b"h%d: x\r\n" % number for number in range(900))

    answer = server.raw(head + b'Content-Length: 22\r\nConnection: close\r\n\r\n{"descricao":"boneca"}')

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"POST /api/predizer_categoria HTTP/1.1\r\nContent-Type: application/json\x01\r\n", 415),
        (b"POST /api/predizer_categoria?x=\xff HTTP/1.1\r\nContent-Type: text/plain\r\n", 415),
        (b"GET /api/" + b"\xff" * 4000 + b" HTTP/1.1\r\n", 404),
        (b"GET /api/" + b'"' * 4000 + b" HTTP/1.1\r\n", 404),
        (b"GET /api HTTP/1.1\r\n", 404),
    ],
)
def test_gunicorn_never_answers_in_html(server: Server, request_head: bytes, status: int) -> None:
    assert_nginx_problem(server.raw(request_head + b"Host: a\r\nConnection: close\r\n\r\n"), status)


@pytest.mark.parametrize(
    ("method", "path", "content_type", "status"),
    [
        ("POST", "/api/modelo", "application/json", 405),
        ("POST", "/api/health", "text/plain", 405),
        ("POST", "/api/nada", "text/plain", 404),
        ("POST", "/api/predizer_categoria", "text/plain", 415),
        ("GET", "/api/modelo", "text/plain", 200),
    ],
)
def test_large_body_that_nobody_wants_is_no_bad_gateway(
    server: Server, method: str, path: str, content_type: str, status: int
) -> None:
    for _ in range(20):
        assert server.request(method, path, "a" * 250_000, Content_Type=content_type).status == status


def test_chunked_body_is_read(server: Server) -> None:
    head = JSON_POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"

    answer = server.raw(head + b'16\r\n{"descricao":"boneca"}\r\n0\r\n\r\n')

    assert answer.endswith(b'{"categoria":"brinquedo"}\n')


def test_bad_chunk_that_is_met_after_another_error_is_no_html(server: Server) -> None:
    head = b"TRACE /api/modelo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"

    assert_nginx_problem(server.raw(head + b"zz\r\n"), 400)


@pytest.mark.parametrize("path", ["/cadastro.html", "/nada", "/", "/api/health", "/api/nada"])
def test_request_id_is_on_every_answer(server: Server, path: str) -> None:
    kept = server.request("GET", path, X_Request_ID="abc-1.x_Y").headers.get_all("X-Request-ID")
    made = server.request("GET", path, X_Request_ID="a b").headers.get_all("X-Request-ID")

    assert kept == ["abc-1.x_Y"]
    assert made is not None
    assert (len(made), len(made[0])) == (1, 32)


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        *((path, "no-store") for path in ["/api/health", "//api/modelo", "/%61pi/modelo", "/api/nada", "/api"]),
        *((path, None) for path in ["/cadastro.html", "/api/../cadastro.html", "/nada"]),
    ],
)
def test_answers_of_the_api_are_not_to_be_stored(server: Server, path: str, stored: str | None) -> None:
    assert server.request("GET", path).headers.get_all("Cache-Control") == (stored and [stored])


SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Server": "nginx",
}
NOT_FOR_CLIENTS = {"X-Log", "X-Powered-By", "Via"}


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.1", 302),
        (b"GET /cadastro.html HTTP/1.1", 200),
        (b"GET /cadastro.html HTTP/1.1\r\nRange: bytes=0-9", 200),
        (b"GET /cadastro.html HTTP/1.1\r\nIf-None-Match: *", 304),
        (b"GET /cadastro.html HTTP/1.1\r\nIf-Match: x", 412),
        (b"GET /cadastro.html HTTP/1.1\r\nRange: bytes=999999-", 200),
        (b"HEAD /cadastro.js HTTP/1.1", 200),
        (b"GET /nada HTTP/1.1", 404),
        (b"GET /api HTTP/1.1", 404),
        (b"GET /api/nada HTTP/1.1", 404),
        (b"GET /api/modelo HTTP/1.1", 200),
        (b"GET /api/health HTTP/1.1", 200),
        (b"GET /api/%00 HTTP/1.1", 400),
        (b"LIXO", 400),
        (b"POST /cadastro.html HTTP/1.1", 405),
        (b"TRACE / HTTP/1.1", 405),
        (b"POST /api/predizer_categoria HTTP/1.1", 415),
        (JSON_POST[:-2] + b"\r\nContent-Length: 22", 200),
        (JSON_POST[:-2] + b"\r\nContent-Length: 2", 400),
        (JSON_POST[:-2] + b"\r\nContent-Length: 300000", 413),
        (b"GET /%s HTTP/1.1" % (b"a" * 5000), 414),
        (b"GET / HTTP/1.1\r\nCookie: %s" % (b"a" * 5000), 431),
        (JSON_POST[:-2] + b"\r\nTransfer-Encoding: gzip", 501),
        (b"GET / HTTP/3.0", 505),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_security_headers_are_on_every_answer_and_no_version_is_told(
    server: Server, request_head: bytes, status: int, scheme: str
) -> None:
    more = b"" if b"Host:" in request_head else b"\r\nHost: a"
    proto = b"\r\nX-Forwarded-Proto: %s" % scheme.encode()

    answer = server.raw(
        request_head.replace(b" HTTP/1.1", b" HTTP/1.1" + proto) + more + HEAD_END + b'{"descricao":"boneca"}'
    )

    first, *lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    names = [line.partition(": ")[0] for line in lines]
    assert first.split()[1] == str(status)
    assert set(lines) >= {f"{name}: {value}" for name, value in SECURITY_HEADERS.items()}
    assert len(names) == len(set(names))
    assert not NOT_FOR_CLIENTS & set(names)
    if (
        b"HTTP/1.1" in request_head and b"%00" not in request_head and status not in {414, 431}
    ):  # else nginx stopped reading
        assert ("Strict-Transport-Security: max-age=31536000" in lines) == (scheme == "https")


@pytest.mark.parametrize(
    ("proto", "told"),
    [("https", True), ("HTTPS", True), ("https,http", True), ("http, https", False), ("httpsx", False), ("", False)],
)
def test_https_is_asked_for_where_the_browser_used_it(server: Server, proto: str, told: bool) -> None:
    headers = server.request("GET", "/cadastro.html", X_Forwarded_Proto=proto).headers

    assert ("Strict-Transport-Security" in headers) == told


def test_connection_is_kept_longer_than_herokus_router_keeps_it(
    server: Server, idle_connection: tuple[http.client.HTTPConnection, float]
) -> None:
    connection, since = idle_connection
    threading.Event().wait(max(0, since + 95 - time.monotonic()))  # Heroku's router keeps a connection for 90 s

    connection.request("GET", "/api/health")

    assert connection.getresponse().status == 200


def test_log_is_one_json_line_a_request_without_the_text(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.predict("segredo", X_Request_ID="abc")
        server.request("GET", "/api/health?segredo=1")
        server.request("POST", "/api/predizer_categoria", '"segredo', Content_Type="application/json")
        server.raw(b"segredo\r\n\r\n")
        server.raw(b"GET /api/\xff\xfe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    lines = [json.loads(line) for line in server.log().splitlines()]
    assert {(line["method"], line["path"], line["status"]) for line in lines} >= {
        ("POST", "/api/predizer_categoria", 200),
        ("GET", "/api/health", 200),
        ("POST", "/api/predizer_categoria", 400),
        ("", "", 400),
    }
    assert "abc" in [line["request_id"] for line in lines]
    assert "segredo" not in server.log() + server.stderr.read_text()


def test_log_of_a_start_and_a_stop_holds_no_error(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.predict("boneca")

    assert server.stderr.read_text() == f"cadastro-produto: http://localhost:{server.port}/cadastro.html\n"


def test_log_goes_to_a_socket_too(tmp_path: Path) -> None:
    reader, writer = socket.socketpair()
    server = Server(tmp_path, stdout=writer.fileno())
    writer.close()
    server.wait_until_open()
    server.request("GET", "/api/health", X_Request_ID="abc")
    server.process.terminate()
    with reader:
        lines = b"".join(iter(lambda: reader.recv(65536), b"")).splitlines()

    assert server.process.wait(5) == 0
    assert "abc" in [json.loads(line)["request_id"] for line in lines]


def refusal(**environment: str) -> str:
    """Return the one line with which entrypoint.sh refuses to start."""
    result = subprocess.run(
        [ROOT / "entrypoint.sh"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    assert (result.returncode, result.stdout) == (64, "")
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "080", "8080 ", "http", "8080;", "99999999999999999999"])
def test_port_that_is_none_is_refused_before_anything_starts(port: str) -> None:
    assert "PORT" in refusal(PORT=port)


@pytest.mark.parametrize(
    ("name", "value"), [("RATE_LIMIT", "-1"), ("RATE_LIMIT", "1.5"), ("WEB_CONCURRENCY", "0"), ("WEB_CONCURRENCY", "x")]
)
def test_other_settings_are_checked_too(name: str, value: str) -> None:
    assert name in refusal(PORT=str(free_port()), **{name: value})


def test_port_that_is_taken_is_refused(server: Server) -> None:
    assert str(server.port) in refusal(PORT=str(server.port))
    assert server.request("GET", "/api/health").status == 200


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this kernel has no IPv6")
def test_listens_on_ipv6_too(server: Server) -> None:
    with socket.create_connection(("::1", server.port), timeout=5) as connection:
        connection.sendall(b"GET /api/health HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_model_that_cannot_be_served_ends_the_start_in_words(tmp_path: Path) -> None:
    model = tmp_path / "model.sav"
    model.write_bytes(b"<html>")

    server = Server(tmp_path, MODEL=str(model))

    assert server.process.wait(30) == 1
    assert f"{model}: not a pickle" in server.stderr.read_text()
    assert "Traceback" not in server.stderr.read_text()


def test_model_that_somebody_else_pickled_is_served(tiny_model: Path, tmp_path: Path) -> None:
    with running(tmp_path, MODEL=str(tiny_model)) as server:
        assert server.request("GET", "/api/modelo").json()["categorias"] == ["brinquedo", "livro", "maquiagem"]
        assert server.predict("boneca").json() == {"categoria": "brinquedo"}


@pytest.mark.skipif(
    not (ROOT / "../shared/data/model-livro.sav").exists(),
    reason="the book's own model file is not here (../shared/data)",
)
def test_the_books_own_model_is_served_with_a_warning_of_its_age(tmp_path: Path) -> None:
    with running(tmp_path, MODEL=str(ROOT / "../shared/data/model-livro.sav")) as server:
        assert server.predict("batom vermelho").json() == {"categoria": "maquiagem"}
        assert server.request("GET", "/api/modelo").json()["sklearn"] == "1.0.2"

    assert "1.0.2" in server.stderr.read_text()


def burst(server: Server, count: int, **headers: str) -> list[Answer]:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: server.predict("boneca", **headers), range(count)))


def test_rate_limit_is_each_clients_own_and_spares_the_rest(tmp_path: Path) -> None:
    with running(tmp_path, RATE_LIMIT="1") as server:
        answers = burst(server, 130)
        refused = [answer for answer in answers if answer.status == 429]

        assert 10 <= len(refused) <= 29  # 101 at once, then 1 a second
        assert_problem(refused[0].status, refused[0].headers, refused[0].json(), 429)
        assert refused[0].headers["Retry-After"] == "1"
        assert server.predict("boneca", X_Forwarded_For="203.0.113.9").status == 429  # loopback is no router
        assert server.request("POST", "/api/predizer_categoria%0A", "{}", Content_Type="application/json").status == 404
        assert server.request("GET", "/api/health").status == 200
        assert server.request("GET", "/cadastro.html").status == 200


def test_rate_limit_off(tmp_path: Path) -> None:
    with running(tmp_path, RATE_LIMIT="0") as server:
        assert {answer.status for answer in burst(server, 300)} == {200}


def workers(server: Server, count: int) -> list[int]:
    """Return the pids of gunicorn's workers, once there are so many."""
    (master,) = server.children("gunicorn")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(master)], capture_output=True, text=True)
        if len(pids := [int(pid) for pid in listed.stdout.split()]) == count:
            return pids
    raise AssertionError(f"{len(pids)} workers, not {count}")


def test_busy_workers_are_a_503_within_two_seconds_and_a_full_queue_at_once(tmp_path: Path) -> None:
    with running(tmp_path, WEB_CONCURRENCY="2", RATE_LIMIT="0") as server:
        server.predict("boneca")
        hung = workers(server, 2)
        for pid in hung:
            os.kill(pid, signal.SIGSTOP)
        with concurrent.futures.ThreadPoolExecutor(160) as pool:
            started = time.monotonic()
            waits = [pool.submit(lambda: (server.predict("boneca"), time.monotonic() - started)) for _ in range(160)]
            answers = [wait.result() for wait in waits]
        for pid in hung:
            os.kill(pid, signal.SIGCONT)

        for answer, _ in answers:
            assert_problem(answer.status, answer.headers, answer.json(), 503)
            assert answer.headers["Retry-After"] == "1"
        at_once = [seconds for _, seconds in answers if seconds < 1.5]
        assert len(at_once) >= 32  # 128 may wait
        assert server.predict("boneca").status == 200


def test_health_is_answered_while_the_queue_is_full(tmp_path: Path) -> None:
    stop = threading.Event()
    text = "palavra " * 2400

    def load(server: Server) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                server.predict(text)

    with (
        running(tmp_path, WEB_CONCURRENCY="1", RATE_LIMIT="0") as server,
        concurrent.futures.ThreadPoolExecutor(150) as pool,
    ):
        for _ in range(150):
            pool.submit(load, server)
        waits = []
        for _ in range(10):
            started = time.monotonic()
            assert server.request("GET", "/api/health").status == 200
            waits.append(time.monotonic() - started)
        stop.set()

    assert max(waits) < 2


@pytest.mark.parametrize("name", ["nginx", "gunicorn"])
@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGQUIT])
def test_death_of_either_process_ends_all_within_two_seconds_and_names_it(
    name: str, which: signal.Signals, tmp_path: Path
) -> None:
    server = Server(tmp_path)
    server.wait_until_open()
    server.predict("boneca")  # the port is there before nginx is
    (pid,) = server.children(name)
    started = time.monotonic()

    os.kill(pid, which)

    assert server.process.wait(5) == 1
    assert time.monotonic() - started < 2
    assert f"{name} ended" in server.stderr.read_text()
    assert leftovers(server) == []


def test_killed_worker_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, WEB_CONCURRENCY="2") as server:
        killed, other = workers(server, 2)
        os.kill(killed, signal.SIGKILL)
        assert server.predict("boneca").status == 200
        deadline = time.monotonic() + 5
        while killed in (now := workers(server, 2)) and time.monotonic() < deadline:
            continue

        assert killed not in now
        assert other in now


def test_ctrl_c_ends_make_run_cleanly(tmp_path: Path) -> None:
    port = free_port()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PORT"] = str(port)
        os.chdir(ROOT)
        os.execvp("make", ["make", "run"])
    output = b""
    while b"cadastro.html" not in output:
        output += os.read(terminal, 1024)

    os.write(terminal, b"\x03")
    with contextlib.suppress(OSError):  # EIO: the terminal's last process has gone
        while chunk := os.read(terminal, 1024):
            output += chunk
    os.waitpid(pid, 0)

    assert b"rror" not in output, output
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_serves_from_a_folder_whose_name_has_a_space(tmp_path: Path) -> None:
    checkout = tmp_path / "a & b"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*", "tests", "training"))

    with running(tmp_path, root=checkout) as server:
        assert server.request("GET", "/cadastro.html").status == 200
        assert server.predict("boneca").status == 200
