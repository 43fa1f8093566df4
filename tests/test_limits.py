"""The image at its limits: /tmp full, and memory all taken. It prints the figures of docs/reliability.md."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable

import pytest

from tests.container import Container, container, docker
from tests.load import Load
from tests.memory import kills, peak
from tests.test_faults import LONG, POST, ending, lost, tell, wait_for_answers, wait_until

__all__ = ["tell"]  # a fixture


def in_the_image(started: Container, command: str) -> subprocess.CompletedProcess[str]:
    return docker("exec", started.name, "sh", "-c", command, check=False)


def test_full_tmp_changes_no_answer_and_no_stop(tell: Callable[[str], None]) -> None:
    with container(8080, "--read-only", "--tmpfs=/tmp:size=4m", "--memory=512m", "--env=RATE_LIMIT=0") as started:
        assert started.first_answer() == 200
        filled = in_the_image(started, "cat /dev/zero >/tmp/full; df /tmp | tail -n 1")
        with (
            Load(started.port, 8) as small,
            Load(started.port, 4, body=LONG) as long,
            ending(lambda: docker("stop", "--time=10", started.name)),
        ):
            wait_for_answers(small, 100)
            wait_for_answers(long, 20)
            health = started.request("GET", "/api/health").status
            page = started.request("GET", "/cadastro.html").status
            failed = lost(small) + lost(long)
        status = started.exit_code(5)

    tell(
        f"/tmp full ({filled.stdout.split()[4]}), 12 connections: {small.statuses.total()} short and "
        f"{long.statuses.total()} requests of 240 kB answered, {len(failed)} lost, stopped with {status}"
    )
    assert "No space left" in filled.stderr
    assert (health, page, status) == (200, 200, 0)
    assert set(small.statuses) | set(long.statuses) == {200}
    assert failed == []


@pytest.mark.parametrize("megabytes", [pytest.param(512, marks=pytest.mark.long), 256])
def test_memory_at_its_limit(megabytes: int, tell: Callable[[str], None]) -> None:
    # First the most that clients can make of it; then another process takes all that there is, until the kernel kills.
    hog = "python3 -c 'import itertools; kept = [b\"x\" * 2**20 for _ in itertools.count()]'"
    with (
        container(8080, f"--memory={megabytes}m", "--env=RATE_LIMIT=0") as started,
        contextlib.ExitStack() as stack,
    ):
        assert started.first_answer() == 200
        alone = peak(started)
        with (
            Load(started.port, 8) as small,
            Load(started.port, 8, body=LONG) as long,
            ending(lambda: docker("stop", "--time=10", started.name)),
        ):
            for number in range(500):
                slow = stack.enter_context(socket.create_connection(("127.0.0.1", started.port), timeout=10))
                with contextlib.suppress(ConnectionError):  # refused as it sends
                    head = POST + b"X-Forwarded-For: 203.0.113.%d\r\nContent-Length: 262144\r\n\r\n" % (number % 50)
                    slow.sendall(head + b" " * 262_000)
            wait_for_answers(small, 200)
            under_load, killed = peak(started), kills(started)
            refused = small.statuses.total() - small.statuses[200]
            failed = lost(small) + lost(long)
            hogs = in_the_image(started, hog)
            recovery = wait_until(lambda: started.predict("boneca").status == 200)
            after = len(lost(small) + lost(long)) - len(failed)
            still_running = started.running()

    tell(
        f"{megabytes} MB: peak {alone:.0f} MB at start, {under_load:.0f} under 16 connections and 500 endless bodies; "
        f"{small.statuses[200]} short and {long.statuses[200]} long requests answered, {long.statuses[503]} long ones "
        f"refused, {len(failed)} lost; a process that took all the rest ended with {hogs.returncode}, {after} lost, "
        f"200 again after {recovery:.2f} s"
    )
    assert killed == 0
    assert under_load < megabytes
    assert refused == 0
    assert failed == []
    assert hogs.returncode == 137
    assert still_running
    assert recovery < 2
