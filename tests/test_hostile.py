"""Clients that mean harm, against the real nginx and gunicorn: nothing leaks, nobody waits, one request stays one."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import gzip
import http.client
import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT, Answer, Server, free_port, running
from tests.problems import assert_problem

BODY = b'{"descricao":"boneca"}'
POST = b"POST /api/predizer_categoria HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CLOSE = b"Connection: close\r\n"
SECOND = b"GET /api/modelo HTTP/1.1\r\nHost: a\r\nX-Request-ID: second\r\nConnection: close\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"


def log_lines(server: Server, start: int = 0, count: int = 0) -> list[dict[str, Any]]:
    """Return what the access log holds from this byte on, once it is so many lines: nginx answers first."""
    if not count:
        server.log()  # waits for what is not written yet
    deadline = time.monotonic() + 5
    while (written := server.stdout.read_bytes()[start:]).count(b"\n") < count and time.monotonic() < deadline:
        continue
    return [json.loads(line) for line in written.decode().splitlines()]


def log_size(server: Server) -> int:
    return len(server.log().encode())


# --- one request never becomes two -----------------------------------------------------------------------------------

# What a front and an app may read differently, each followed by a second request that only one of them might see.
AMBIGUOUS = {
    "CL and TE": POST + b"Content-Length: 22\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 22\r\n\r\n" + BODY,
    "two CL": POST + b"Content-Length: 22\r\nContent-Length: 150\r\n\r\n" + BODY,
    "two equal CL": POST + b"Content-Length: 22\r\nContent-Length: 22\r\n\r\n" + BODY,
    "CL list": POST + b"Content-Length: 22, 22\r\n\r\n" + BODY,
    "CL +": POST + b"Content-Length: +22\r\n\r\n" + BODY,
    "CL -": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "CL hexadecimal": POST + b"Content-Length: 0x16\r\n\r\n" + BODY,
    "CL empty": POST + b"Content-Length: \r\n\r\n" + BODY,
    "CL too large": POST + b"Content-Length: 18446744073709551638\r\n\r\n" + BODY,
    "blank before the colon of CL": POST + b"Content-Length : 22\r\n\r\n" + BODY,
    "blank before the colon of TE": POST + b"Content-Length: 22\r\nTransfer-Encoding : chunked\r\n\r\n" + BODY,
    "two TE": CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "TE folded": POST + b"Content-Length: 22\r\nTransfer-Encoding:\r\n chunked\r\n\r\n" + BODY,
    "header folded": POST + b"X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 22\r\n\r\n" + BODY,
    "TE after a bare LF": POST + b"X-A: b\nTransfer-Encoding: chunked\r\nContent-Length: 22\r\n\r\n" + BODY,
    "TE after a bare CR": POST + b"X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 22\r\n\r\n" + BODY,
    "TE after a NUL": POST + b"X-A: b\0Transfer-Encoding: chunked\r\nContent-Length: 22\r\n\r\n" + BODY,
    "TE in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n0\r\n\r\n",
    "chunk size 0x": CHUNKED + b"\r\n0x16\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size +": CHUNKED + b"\r\n+16\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size -": CHUNKED + b"\r\n-16\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size overflows": CHUNKED + b"\r\n10000000000000016\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"\r\n10\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk without an end": CHUNKED + b"\r\n16\r\n" + BODY + b"XX0\r\n\r\n",
    "LF in a chunk extension": CHUNKED + b"\r\n16;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "CR in a chunk extension": CHUNKED + b"\r\n16;\rb\r\n" + BODY + b"\r\n0\r\n\r\n",
    **{
        f"TE {coding!r}": POST + b"Content-Length: 22\r\nTransfer-Encoding: " + coding + b"\r\n\r\n" + BODY
        for coding in (
            b"xchunked",
            b"\x0bchunked",
            b"chunked, identity",
            b"chunked,chunked",
            b'"chunked"',
            b"\xefchunked",
        )
    },
}
# What is odd but has one reading only: two requests, and two answers.
CLEAR = {
    "chunk extension": CHUNKED + b'\r\n16;a="b"\r\n' + BODY + b"\r\n0\r\n\r\n",
    "two chunks": CHUNKED + b"\r\n1\r\n{\r\n15\r\n" + BODY[1:] + b"\r\n000\r\n\r\n",
    "trailer": CHUNKED + b"\r\n16\r\n" + BODY + b"\r\n0\r\nContent-Length: 500\r\n\r\n",
    "lines that end in LF": POST.replace(b"\r\n", b"\n") + b"Content-Length: 22\n\n" + BODY,
    "chunk lines that end in LF": CHUNKED + b"\r\n16\n" + BODY + b"\n0\n\n",
    "underscore": POST + b"Content_Length: 150\r\nContent-Length: 22\r\n\r\n" + BODY,
    "other case": POST + b"TRANSFER-ENCODING: Chunked\r\n\r\n16\r\n" + BODY + b"\r\n0\r\n\r\n",
    "body is a request": POST + b"Content-Length: %d\r\n\r\n" % len(SECOND) + SECOND,
    "GET with a body": b"GET /api/health HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(SECOND) + SECOND,
}


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d{3}) ", answers, re.MULTILINE)]


@pytest.mark.parametrize("request_bytes", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_request_of_two_readings_is_refused_and_ends_the_connection(server: Server, request_bytes: bytes) -> None:
    before = log_size(server)

    (status,) = statuses(server.raw(request_bytes + SECOND))

    assert status in {400, 501}
    assert [line["status"] for line in log_lines(server, before, 1)] == [status]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, list[bytes]]]:
    """nginx's port, and all that came over each connection to the socket that stands in gunicorn's place."""
    run, port, received = tmp_path_factory.mktemp("nginx"), free_port(), list[bytes]()
    for name in ("nginx.conf", "default"):
        text = (ROOT / name).read_text().replace("$PORT", str(port)).replace("$RATE_LIMIT", "9999")
        text = re.sub(r"\$CORS_ORIGINS|\$PAGE_API| resolver .*", "", text)
        (run / name).write_text(text.replace("$RUN", str(run)))
    as_root = [] if os.getuid() else ["-g", "user root;"]
    listeners = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for listener, name in zip(listeners, ("app.sock", "health.sock"), strict=True):
        listener.bind(str(run / name))
        listener.listen()
        threading.Thread(target=record, args=(listener, received), daemon=True).start()
    command = ["nginx", "-e", "stderr", "-c", str(run / "nginx.conf"), *as_root]
    nginx = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={"PATH": f"{os.environ['PATH']}:/usr/sbin"})
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
    yield port, received
    nginx.terminate()
    nginx.wait(5)
    for listener in listeners:
        listener.close()


def record(listener: socket.socket, received: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # the listener has been closed
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                data = b""
                while b"\r\n\r\n" not in data or len(data) < whole_length(data):
                    data += connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                received.append(data + b"".join(iter(lambda c=connection: c.recv(65536), b"")))  # type: ignore[misc]


def whole_length(request: bytes) -> int:
    """Return the length of the one request that these bytes begin with."""
    head = request.partition(b"\r\n\r\n")[0]
    lengths = re.findall(rb"^content-length: (\d+)\r?$", head, re.MULTILINE | re.IGNORECASE)
    assert len(lengths) <= 1
    assert b"transfer-encoding" not in head.lower()
    return len(head) + 4 + int((lengths or [b"0"])[0])


@pytest.mark.parametrize("request_bytes", [*AMBIGUOUS.values(), *CLEAR.values()], ids=[*AMBIGUOUS, *CLEAR])
def test_gunicorn_gets_as_many_requests_as_nginx_answers(
    recorded: tuple[int, list[bytes]], request_bytes: bytes
) -> None:
    port, received = recorded
    received.clear()

    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request_bytes + SECOND)
        answers = statuses(b"".join(iter(lambda: connection.recv(65536), b"")))

    deadline = time.monotonic() + 5  # nginx answers before it closes the other side
    while len(received) < answers.count(200) and time.monotonic() < deadline:
        continue
    assert len(received) == answers.count(200) == (2 if request_bytes in CLEAR.values() else 0)
    assert [len(request) for request in received] == [whole_length(request) for request in received]


# --- slow clients ----------------------------------------------------------------------------------------------------

SLOW = {
    "head": b"GET /api/health HTTP/1.1\r\nHost: a\r\nX-A: ",
    "body": POST + b"Content-Length: 262144\r\n\r\n" + b" " * 32_000,
    "reader": b"GET /cadastro.js HTTP/1.1\r\nHost: a\r\n\r\n" * 400,
}


def seconds_of_predictions(server: Server, count: int) -> list[float]:
    """Ask for so many predictions, of which none may fail, and return how long each took."""
    took = []
    for _ in range(count):
        begun = time.monotonic()
        assert server.predict("boneca de pano").status == 200
        took.append(time.monotonic() - begun)
    return took


@pytest.mark.parametrize("sent", SLOW.values(), ids=SLOW)
def test_five_hundred_slow_clients_do_not_keep_others_waiting(server: Server, sent: bytes) -> None:
    before = seconds_of_predictions(server, 200)
    with contextlib.ExitStack() as stack:
        slow = []
        for _ in range(500):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # a reader's window is soon full
            connection.connect(("127.0.0.1", server.port))
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.send(sent)
            slow.append(connection)
        during = seconds_of_predictions(server, 200)
        health = server.request("GET", "/api/health").status
        open_still = 0
        for connection in slow:
            with contextlib.suppress(BlockingIOError):
                open_still -= not connection.recv(1, socket.MSG_PEEK)
            open_still += 1

    assert health == 200
    assert open_still == 500
    milliseconds = [1000 * statistics.median(took) for took in (before, during)]
    print("median ms of a prediction, without and with 500 slow clients: {:.1f}, {:.1f}".format(*milliseconds))


# --- bodies ----------------------------------------------------------------------------------------------------------


def test_body_over_the_limit_is_refused_however_it_is_told(server: Server) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"

    assert statuses(server.raw(POST + b"Content-Length: 262145\r\n" + CLOSE + b"\r\n")) == [413]
    assert statuses(server.raw(CHUNKED + CLOSE + b"\r\n" + chunk * 4 + b"1\r\n \r\n0\r\n\r\n")) == [413]
    assert statuses(server.raw(CHUNKED + CLOSE + b"\r\n" + chunk * 4 + b"0\r\n\r\n")) == [
        400
    ]  # the limit itself: blank


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY))),
        ("gzip", gzip.compress(b'{"descricao":"%s"}' % (b"a" * 100_000_000))),
    ],
    ids=["gzip", "deflate", "twice", "bomb"],
)
def test_compressed_body_is_never_inflated(server: Server, coding: str, body: bytes) -> None:
    answer = server.request(
        "POST", "/api/predizer_categoria", body, Content_Type="application/json", Content_Encoding=coding
    )

    assert_problem(answer.status, answer.headers, answer.json(), 400)  # what inflates to a good body is bytes here


EXPLOSIVE = {
    "one word": "a" * 20_000,
    "blanks": " " * 19_999 + "a",
    "letters apart": "a " * 10_000,
    "no letters": "!" * 20_000,
    "almost words": "a!" * 10_000,
    "combining": "a" + "\u0301" * 19_999,
    "line ends": "\r\n" * 9_999 + "ab",
    "joined letters": "ﷺ" * 20_000,  # 18 letters each in NFKD
    "other digits": "٣" * 20_000,
    "new words": " ".join(f"{number:x}z" for number in range(20_000))[:20_000],
}


@pytest.mark.parametrize("query", ["", "?detalhes=1"])
@pytest.mark.parametrize("text", EXPLOSIVE.values(), ids=EXPLOSIVE)
def test_text_made_to_explode_is_answered_like_any_other(server: Server, text: str, query: str) -> None:
    took = []
    for descricao in ("boneca de pano azul " * 1000, text):
        begun = time.monotonic()
        body = json.dumps({"descricao": descricao})
        answer = server.request("POST", f"/api/predizer_categoria{query}", body, Content_Type="application/json")
        took.append(1000 * (time.monotonic() - begun))
        assert answer.status == 200  # within the 2 s after which nginx gives up

    print("ms of a plain text, ms of this one: {:.0f}, {:.0f}".format(*took))


# --- injection -------------------------------------------------------------------------------------------------------

NASTY = [
    b'"',
    b'","status":200,"x":"',
    b"\\",
    b"%0d%0aSet-Cookie:%20a=b",
    b"%22%5c%00",
    b"\t\x01\x1b[2J\x7f",
    b"\xff\xfe\xc3(",
    "ção\u2028\u0085".encode(),
    b"${jndi:ldap://a/b}",
    b"$request_id",
    b"<script>alert(1)</script>",
    b"a" * 3000,
    b"a\nSet-Cookie: a=b",
    b"a\rSet-Cookie: a=b",
    b"a\r\n Set-Cookie: a=b",
]


@pytest.mark.parametrize("nasty", NASTY, ids=range(len(NASTY)))
@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /api/health HTTP/1.1\r\nHost: a\r\nX-Request-ID: %s\r\n",
        b"GET /api/health HTTP/1.1\r\nHost: a\r\nUser-Agent: %s\r\nReferer: %s\r\nCookie: %s\r\n",
        b"GET /api/health HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %s\r\nX-Forwarded-Proto: %s\r\n",
        b"GET /api/health HTTP/1.1\r\nHost: %s\r\n",
        b"GET /%s HTTP/1.1\r\nHost: a\r\n",
        b"GET /api/%s HTTP/1.1\r\nHost: a\r\n",
        b"GET /api/health?%s HTTP/1.1\r\nHost: a\r\n",
        b"%s / HTTP/1.1\r\nHost: a\r\n",
        POST + b"X-Log: true %s\r\n",
    ],
    ids=["id", "agent", "forwarded", "host", "page", "api", "query", "method", "log"],
)
def test_nothing_gets_from_a_request_into_a_header_or_a_log_line(
    server: Server, request_bytes: bytes, nasty: bytes
) -> None:
    before = log_size(server)

    answer = server.raw(request_bytes.replace(b"%s", nasty) + CLOSE + b"\r\n")

    head = answer.partition(b"\r\n\r\n")[0]
    if not answer:  # the path ends at the LF, so the request is one of HTTP/0.9
        assert (b"\n" in nasty, [line["status"] for line in log_lines(server, before, 1)]) == (True, [444])
        return
    assert len(statuses(answer)) == 1
    assert b"set-cookie" not in head.lower()
    assert nasty not in answer or len(nasty) == 1
    (line,) = log_lines(server, before, 1)
    assert list(line) == [
        "time",
        "request_id",
        "client",
        "method",
        "path",
        "status",
        "bytes",
        "seconds",
        "upstream_seconds",
        "categoria",
        "incerto",
    ]
    assert line["status"] == statuses(answer)[0]
    assert line["client"] == "127.0.0.1"
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", line["request_id"])
    assert f"X-Request-ID: {line['request_id']}".encode() in head.split(b"\r\n")
    assert line["path"] in {"", "/", "/api/health", "/api/predizer_categoria"}
    assert (line["categoria"], line["incerto"]) == ("", None)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: evil.example\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: a\r\n",
        b"GET http://evil.example/nada HTTP/1.1\r\nHost: evil.example\r\n",
        b"GET /api/nada HTTP/1.1\r\nHost: evil.example:99999\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: evil.example\r\n",
        b"GET / HTTP/1.1\r\nHost: \r\n",
        b"GET / HTTP/1.0\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.example/../@a\r\n",
        b"GET / HTTP/1.1\r\nHost: " + b"evil.example." * 300 + b"\r\n",
        b"GET /webclient HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: evil.example\r\n",
        b"GET //evil.example/%2e%2e HTTP/1.1\r\nHost: a\r\n",
    ],
)
def test_host_that_the_client_claims_is_in_no_answer(server: Server, request_bytes: bytes) -> None:
    answer = server.raw(request_bytes + CLOSE + b"\r\n")

    assert statuses(answer)[0] in {302, 400, 404}
    assert b"evil" not in answer
    assert re.findall(rb"^Location: (.*)\r$", answer, re.MULTILINE) in ([], [b"/cadastro.html"])


# --- files -----------------------------------------------------------------------------------------------------------

FILES = ["model.sav", "app.py", "default", "requirements.txt", ".git/config", ".cache/", "nginx.conf", "etc/passwd"]
WAYS = [
    "/",
    "//",
    "/./",
    "/../",
    "/../../../../../../../",
    "/%2e%2e/",
    "/..%2f",
    "/%252e%252e/",
    "/%252e%252e%252f",
    "/..%5c",
    "/..\\",
    "/....//",
    "/%c0%ae%c0%ae/",
    "/..;/",
    "/cadastro.html/../",
    "/cadastro.html/../../",
    "/webclient/../",
    "/api/../",
    "/api/%2e%2e/%2e%2e/",
    "/api/..%2f..%2f",
    "/api/predizer_categoria/../../../",
    "http://a/../",
    "file:///",
]


@pytest.mark.parametrize("way", WAYS)
def test_no_file_but_the_pages_own_can_be_had(server: Server, way: str) -> None:
    page = (ROOT / "webclient/404.html").read_bytes()
    for name in FILES:
        for ending in ("", "%00.html", "%20", "/", "~", "?.html"):
            answer = server.raw(f"GET {way}{name}{ending} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            status, body = statuses(answer)[0], answer.partition(b"\r\n\r\n")[2]

            assert status in {400, 404}, (name, ending)
            assert body == page or json.loads(body)["status"] == status


# --- the rate limit --------------------------------------------------------------------------------------------------

ROUTERS = ["10.1.2.3", "172.16.0.1", "172.31.255.254", "192.168.7.7", "169.254.1.1", "100.64.0.1", "100.127.9.9"]
ROUTERS_IPV6 = ["fd12:3456::1", "fc00::1", "fe80::1"]
PUBLIC = ["203.0.113.5", "172.32.0.1", "100.128.0.1", "127.0.0.1", "127.9.9.9", "2001:db8::5"]
CLONE_NEWNET = 0x40000000  # of sched.h; Python has os.unshare only from 3.12 on


def in_own_network(addresses: list[str], function: Callable[[], None]) -> None:
    """Call the function in a thread whose network is its own and has these addresses."""

    def call() -> None:
        assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for address in addresses:
            if not address.startswith("127."):
                subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True)
        function()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()


def predict_from(server: Server, source: str, forwarded: list[str]) -> list[int]:
    """Ask for a prediction from that address for each of these X-Forwarded-For; return the statuses."""
    host, *scope = (source, 0, 1) if source.startswith("fe80") else (source,)  # 1 is the loopback interface's number
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)) as connection:
        connection.bind((host, 0, *scope))
        connection.settimeout(10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect((host, server.port, *scope))
        client = http.client.HTTPConnection("a")
        client.sock = connection
        answers = []
        for each in forwarded:
            headers = {"Content-Type": "application/json", "X-Forwarded-For": each}
            client.request("POST", "/api/predizer_categoria", BODY, headers)
            answers.append(Answer(client.getresponse()).status)
        return answers


@pytest.mark.skipif(os.getuid() != 0, reason="only root may make a network of its own")
def test_rate_limit_counts_whom_the_contract_calls_a_client(tmp_path: Path) -> None:
    def attack() -> None:
        with running(tmp_path, RATE_LIMIT="1") as server:
            for number, source in enumerate([*ROUTERS, *ROUTERS_IPV6]):
                # The last entry is the router's word; those before it are the client's, and change at every request.
                spoofed = [f"198.51.100.{each}, 203.0.114.{number}" for each in range(120)]
                assert predict_from(server, source, spoofed).count(429) >= 10, source
                assert predict_from(server, source, ["203.0.114.200"]) == [200], source
            for source in PUBLIC:
                spoofed = [f"198.51.100.{each}" for each in range(120)]
                assert predict_from(server, source, spoofed).count(429) >= 10, source
            # Behind a router, whatever is no address counts as the router itself, one client.
            junk = ["", "x", "127.1", "999.1.1.1", "a, b", '1.2.3.4"', "1.2.3.4 5", "::g", "unknown"]
            assert predict_from(server, ROUTERS[1], junk * 14).count(429) >= 10
            assert {line["client"] for line in log_lines(server) if line["status"] == 429} == {
                *(f"203.0.114.{number}" for number in range(len(ROUTERS) + len(ROUTERS_IPV6))),
                *PUBLIC,
                ROUTERS[1],
            }

    in_own_network(
        [f"{each}/128" if ":" in each else f"{each}/32" for each in [*ROUTERS, *ROUTERS_IPV6, *PUBLIC]], attack
    )


# --- the seller's text is in no log ----------------------------------------------------------------------------------


def test_sellers_text_is_in_no_log_whatever_goes_wrong(tmp_path: Path) -> None:
    def post(body: bytes | str, path: str = "/api/predizer_categoria", kind: str = "application/json") -> int:
        return server.request("POST", path, body, Content_Type=kind).status

    good = json.dumps({"descricao": "segredo", "titulo": "segredo"})
    query = "/api/predizer_categoria?descricao=segredo&detalhes=1"
    with running(tmp_path, RATE_LIMIT="20", WEB_CONCURRENCY="1") as server:
        assert [post(good), post(good, query), post(good, kind="text/plain")] == [200, 200, 415]
        assert [post('"segredo'), post('{"titulo":"segredo"}'), post("segredo " * 40_000, query)] == [400, 422, 413]
        assert [post(json.dumps({"descricao": "segredo" * 3000})), post(good, "/api/segredo")] == [422, 404]
        assert [post(good, "/segredo"), post(good, "/cadastro.html?segredo")] == [404, 405]
        for path in ("/segredo", "/api/modelo/segredo", "/cadastro.html/segredo", "/?segredo", "/api/health?segredo"):
            server.request("GET", path, Referer="http://a/?segredo", User_Agent="segredo", Cookie="segredo=1")
        for path in ("/segredo/../cadastro.html", "//api//segredo", "/segredo/%2e%2e/%2e%2e/", "/segredo%00"):
            server.raw(f"GET {path} HTTP/1.1\r\nHost: segredo\r\nConnection: close\r\n\r\n".encode())
        for line in (
            "segredo",
            "segredo / HTTP/1.1",
            "SEGREDO / HTTP/1.1",
            "GET /segredo",
            "GET http://segredo/ HTTP/1.1",
        ):
            server.raw(f"{line}\r\nHost: segredo\r\nConnection: close\r\n\r\n".encode())
        server.raw(b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"segredo" * 590))
        server.raw(b"GET /segredo HTTP/1.1\r\nHost: a\r\nCookie: %s\r\n\r\n" % (b"segredo" * 590))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert 429 in list(pool.map(lambda _: post(good, query), range(200)))
        (master,) = server.children("gunicorn")
        (worker,) = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(master)], capture_output=True, text=True, check=True
        ).stdout.split()
        os.kill(int(worker), signal.SIGSTOP)
        threading.Event().wait(6)  # until the rate limit lets a client in again
        assert post(good, query) == 503
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(post, good, query)
            os.kill(int(worker), signal.SIGKILL)
            assert waiting.result() in {200, 502, 503}

    shown = server.log() + server.stderr.read_text()
    assert "segredo" not in shown.lower()
    assert {200, 400, 404, 405, 413, 414, 415, 422, 429, 431, 503} <= {line["status"] for line in log_lines(server)}


def test_log_tells_of_a_prediction_what_was_answered(server: Server) -> None:
    before = log_size(server)
    body = json.dumps({"descricao": "açúcar mascavo"})
    details = server.request("POST", "/api/predizer_categoria?detalhes=1", body, Content_Type="application/json").json()
    server.predict("açúcar mascavo")
    server.predict("zzzz")
    server.request("GET", "/cadastro.html")

    lines = log_lines(server, before, 4)
    assert [line["categoria"] for line in lines[:2]] == [details["categoria"]] * 2
    assert [line["incerto"] for line in lines] == [details["incerto"], details["incerto"], True, None]
    assert [line["path"] for line in lines] == ["/api/predizer_categoria"] * 3 + ["/cadastro.html"]
    assert all(0 <= line["upstream_seconds"] <= line["seconds"] + 0.002 for line in lines[:3])
    assert (lines[3]["categoria"], lines[3]["upstream_seconds"]) == ("", None)


# --- generated requests ----------------------------------------------------------------------------------------------

WORD = st.text(max_size=30) | st.sampled_from(["boneca de pano", "e\u0301", "\ud83d", "\x00", "a" * 501, "a" * 20_001])
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | WORD
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3), max_leaves=5
)
FIELDS = st.fixed_dictionaries({}, optional={"descricao": WORD | VALUE, "titulo": WORD | VALUE, "preco": VALUE})
JSON_BODY = (FIELDS | VALUE).map(lambda value: json.dumps(value).encode())
RAW_BODY = st.builds(
    lambda body, coding: json.dumps(body, ensure_ascii=False).encode(coding, "surrogatepass"),
    FIELDS,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-7"]),
)
CUT_BODY = st.builds(lambda body, start, end: body[start:end], JSON_BODY, st.integers(0, 5), st.integers(-9, -1))
SENT = st.one_of(JSON_BODY, RAW_BODY, CUT_BODY, st.binary(max_size=60))
METHOD = st.sampled_from(["POST"] * 8 + ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
ROUTE = st.sampled_from(
    ["predizer_categoria"] * 8 + ["modelo", "health", "", "nada", "predizer_categoria/", "%00", "%ff"]
)
QUERY = st.sampled_from(
    ["", "", "?detalhes=1", "?detalhes=1&detalhes=1", "?%ff", "?detalhes=%00", "?;=&&", "?" + "a" * 2000]
)
KIND = st.sampled_from(
    ["application/json"] * 6
    + ["application/json; charset=utf-16", "", "text/plain", "multipart/form-data", "a/b;c=\xff"]
)
ID = st.sampled_from(["", "abc", "a b", "\xff", "a" * 200])


def for_generated(count: int, function: Callable[..., None]) -> None:
    """Call the function with so many generated requests, new ones each time."""
    calls = itertools.count()

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(METHOD, ROUTE, QUERY, KIND, ID, SENT))
    def call(request: tuple[str, str, str, str, str, bytes]) -> None:
        next(calls)
        function(*request)

    call()
    assert next(calls) >= count


def test_generated_request_is_never_a_5xx_of_the_app(client: FlaskClient, requests: int) -> None:
    def send(method: str, route: str, query: str, kind: str, given_id: str, body: bytes) -> None:
        answer = client.open(
            f"/{route}{query}", method=method, data=body, content_type=kind, headers={"X-Request-ID": given_id}
        )
        assert answer.status_code < 500
        if answer.status_code >= 400 and method != "HEAD":
            assert_problem(
                answer.status_code,
                answer.headers,
                answer.get_json(),
                answer.status_code,
                answer.get_json().get("campo"),
            )

    for_generated(requests // 2, send)  # the client comes twice, with the hot path and without


def test_generated_request_is_never_a_5xx_through_nginx(server: Server, requests: int) -> None:
    def send(method: str, route: str, query: str, kind: str, given_id: str, body: bytes) -> None:
        head = (
            f"{method} /api/{route}{query} HTTP/1.1\r\nHost: a\r\nX-Request-ID: {given_id}\r\nContent-Type: {kind}\r\n"
        )
        length = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        (status,) = statuses(server.raw((head + length).encode("latin-1") + body))
        assert status < 500

    for_generated(requests // 10, send)
