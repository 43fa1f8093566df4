"""The lossless stop: under load and during start, whatever signal comes, to process 1 or to all, once or thrice.

A request is accepted once nginx has read the whole of it. With -s, or --stops, the figures of docs/reliability.md.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server, leftovers, running
from tests.load import Load, read_answer, request

LONG = json.dumps({"descricao": "boneca " * 2857}).encode()


@dataclasses.dataclass
class Signal:
    """What is sent, to whom, and how often."""

    which: signal.Signals
    everyone: bool = False
    last_first: bool = False
    times: int = 1

    def __str__(self) -> str:
        whom = "every process" if self.everyone else "process 1"
        order = ", the last first" if self.last_first else ""
        return f"{self.which.name} to {whom}{order}{', thrice' if self.times == 3 else ''}"

    def send(self, server: Server) -> None:
        pids = list(server.family()) if self.everyone else [server.process.pid]
        for _ in range(self.times):
            for pid in pids[::-1] if self.last_first else pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, self.which)
            server.process_ended_within(0.1 if self.times > 1 else 0)


every_signal = pytest.mark.parametrize(
    "sent",
    [
        Signal(signal.SIGTERM),
        Signal(signal.SIGTERM, everyone=True),
        Signal(signal.SIGTERM, everyone=True, last_first=True),
        Signal(signal.SIGTERM, everyone=True, times=3),
        Signal(signal.SIGTERM, everyone=True, last_first=True, times=3),
        Signal(signal.SIGINT),
        Signal(signal.SIGINT, everyone=True),
        Signal(signal.SIGINT, everyone=True, last_first=True),
    ],
    ids=str,
)


def trickle(port: int, seconds: float) -> int | None:
    """Send a request whose body takes so long to arrive; return the answer's status, None where there is none."""
    whole = request(uuid.uuid4().hex, body=LONG)
    head = whole[: -len(LONG)]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            connection.sendall(head)
            for start in range(0, len(LONG), len(LONG) // 10 + 1):
                select.select([connection], [], [], seconds / 10)  # returns early where the server has closed
                connection.sendall(LONG[start : start + len(LONG) // 10 + 1])
            return int(read_answer(connection).split()[1])
        except ConnectionError:
            return None


@pytest.mark.parametrize("keep_alive", [False, True], ids=["a connection a request", "kept alive"])
@every_signal
def test_stop_under_load_loses_no_accepted_request(
    sent: Signal, keep_alive: bool, stops: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    totals: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(stops):
        server = Server(tmp_path, RATE_LIMIT="0")
        server.wait_until_open()
        with (
            Load(server.port, 16, keep_alive) as load,
            Load(server.port, 2, keep_alive, LONG) as long,
            concurrent.futures.ThreadPoolExecutor(8) as pool,
        ):
            while load.statuses.total() < 200:
                server.process_ended_within(0.01)
            finishing = [pool.submit(trickle, server.port, 1) for _ in range(4)]
            endless = [pool.submit(trickle, server.port, 60) for _ in range(4)]
            server.process_ended_within(0.2)
            started = time.monotonic()
            sent.send(server)
            status = server.process.wait(10)
            seconds = time.monotonic() - started

        logged = {json.loads(line)["request_id"] for line in server.stdout.read_text().splitlines()}
        assert status == 0
        assert seconds < 4
        assert set(load.statuses) | set(long.statuses) == {200}
        assert [each.result() for each in finishing] == [200] * 4
        assert [each.result() for each in endless] == [None] * 4
        assert (load.cut, long.cut) == ([], [])
        assert (load.reset, long.reset) == ([], [])
        assert logged.isdisjoint(load.closed + long.closed)
        slowest = max(slowest, seconds)
        totals["answered"] += load.statuses.total() + long.statuses.total() + len(finishing)
        totals["closed"] += len(load.closed) + len(long.closed)
        totals["endless"] += len(endless)
    with capsys.disabled():
        print(
            f"\n{sent}, {'kept alive' if keep_alive else 'a connection a request'}: {stops} stops, "
            f"{totals['answered']} answered, 0 lost, 0 fresh connections reset, {totals['closed']} of {18 * stops} "
            f"connections closed between requests, {totals['endless']} endless bodies dropped, slowest {slowest:.1f} s"
        )


@every_signal
def test_requests_in_a_hung_worker_are_answered(sent: Signal, tmp_path: Path) -> None:
    with running(tmp_path, WEB_CONCURRENCY="1") as server:
        server.predict("boneca")
        (master,) = server.children("gunicorn")
        (worker,) = [pid for pid, (parent, _) in server.family().items() if parent == master]
        os.kill(worker, signal.SIGSTOP)
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            waiting = [pool.submit(server.predict, "boneca de pano") for _ in range(20)]
            wait_for_established(server.port, 20)
            sent.send(server)
            assert not server.process_ended_within(0.9)
            os.kill(worker, signal.SIGCONT)
            statuses = [each.result().status for each in waiting]

        assert statuses == [200] * 20
        assert server.process.wait(5) == 0


def wait_for_established(port: int, count: int, unread: bool = False) -> None:
    """Wait until so many requests have reached nginx, which has read them; or, unread, its queue."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        shown = subprocess.run(
            ["ss", "-Htn", "state", "established", f"sport = :{port}"], capture_output=True, text=True, check=True
        )
        queues = [line.split()[0] for line in shown.stdout.splitlines()]
        if sum((queue != "0") == unread for queue in queues) >= count:
            return
    raise AssertionError(shown.stdout)


def connect_again_and_again(server: Server) -> None:
    while not server.process_ended_within(0.01):  # more than some hundred would be a load of their own
        socket.create_connection(("127.0.0.1", server.port), timeout=10).close()


def test_new_connections_are_refused_while_those_in_the_queue_are_not_reset(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.predict("boneca")
        (master,) = server.children("nginx")
        (worker,) = [pid for pid, (parent, _) in server.family().items() if parent == master]
        os.kill(worker, signal.SIGSTOP)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            waiting = [pool.submit(server.predict, "boneca de pano") for _ in range(16)]
            wait_for_established(server.port, 16, unread=True)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionRefusedError):  # nobody new is let in, while those in the queue stay
                connect_again_and_again(server)
            os.kill(worker, signal.SIGCONT)

            assert [each.result().status for each in waiting] == [200] * 16


def test_health_says_503_once_a_stop_has_begun(tmp_path: Path) -> None:
    statuses = []
    with running(tmp_path) as server:
        server.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError, http.client.RemoteDisconnected):
            while True:
                statuses.append(server.request("GET", "/api/health").status)

    assert statuses[-1] == 503
    assert set(statuses) <= {200, 503}


@every_signal
def test_signal_during_the_start_ends_it(sent: Signal, tmp_path: Path) -> None:
    for milliseconds in (0, 20, 50, 80, 120, 160, 200, 300, 400, 500, 600, 800):
        server = Server(tmp_path, RATE_LIMIT="0")
        with Load(server.port, 2) as load:
            server.process_ended_within(milliseconds / 1000)
            started = time.monotonic()
            sent.send(server)
            status = server.process.wait(10)

        assert time.monotonic() - started < 4
        assert status == 0 or (milliseconds < 50 and status == -sent.which)  # before `env` had blocked it
        assert set(load.statuses) <= {200}
        assert load.reset + load.cut == []
        assert leftovers(server) == []


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN], ids=["in the foreground", "in the background"])
def quit_as_a_shell_has_it(request: pytest.FixtureRequest) -> Iterator[None]:
    """A shell's `&` ignores QUIT for what it starts."""
    before = signal.signal(signal.SIGQUIT, request.param)
    yield
    signal.signal(signal.SIGQUIT, before)


@pytest.mark.usefixtures("quit_as_a_shell_has_it")
def test_killed_script_leaves_nothing_behind(tmp_path: Path) -> None:
    for milliseconds in (200, 250, 300, 350, 400, 600, 1200):
        server = Server(tmp_path)
        server.process_ended_within(milliseconds / 1000)
        server.process.kill()
        server.process.wait()

        assert leftovers(server) == []

    server = Server(tmp_path)
    server.wait_until_open()
    server.process.kill()
    server.process.wait()

    assert leftovers(server) == []


def test_kernel_that_refuses_the_filter_is_told_of_and_serves(tmp_path: Path) -> None:
    # Stands where entrypoint.sh would, and takes PR_SET_SECCOMP away from all that follows.
    entrypoint = tmp_path / "entrypoint.sh"
    entrypoint.write_text(f"""#!/usr/bin/env python
import ctypes, os, sys
sys.path.insert(0, {str(ROOT)!r})
from launch import *
program = Program(
    (LOAD_WORD, 0, 0, 0), (IF_EQUAL, 0, 3, {{"x86_64": 157, "aarch64": 167}}[os.uname().machine]),
    (LOAD_WORD, 0, 0, 16), (IF_EQUAL, 0, 1, PR_SET_SECCOMP), (RETURN, 0, 0, SECCOMP_RET_ERRNO | 22),
    (RETURN, 0, 0, SECCOMP_RET_ALLOW),
)
assert prctl(PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) == 0
assert prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program)) == 0
os.execv({str(ROOT / "entrypoint.sh")!r}, sys.argv)
""")
    entrypoint.chmod(0o755)

    with running(tmp_path, root=tmp_path) as server:
        assert server.predict("boneca").status == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0
        assert len(server.stderr.read_text().splitlines()) == 2
