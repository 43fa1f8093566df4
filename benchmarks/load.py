"""Load on one server of this machine: wrk for its capacity, and an open-loop client for latency at a fixed rate."""

from __future__ import annotations

import contextlib
import json
import math
import random
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CONNECTIONS = 64  # of the open-loop client: more arrivals than that wait for a connection, and their clock runs


@dataclass(frozen=True)
class Load:
    """What a load came to: requests a second that were answered, latencies in ms, and how many answers were wrong."""

    rate: float
    p50: float
    p99: float
    errors: int


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of the values that is not below `percent` % of them (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def post(path: str, body: bytes) -> bytes:
    """Return an HTTP request as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


@contextlib.contextmanager
def wrk(url: str, bodies: Path, first: int, seconds: int, connections: int = 16) -> Iterator[subprocess.Popen[str]]:
    """Run wrk with so many connections, so long, from that line of the bodies' file on; `finished` reads its result."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=10s", "-s", str(HERE / "wrk.lua")]
    command = ["wrk", *options, url, "--", str(bodies), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(process: subprocess.Popen[str]) -> Load:
    """Return what wrk measured."""
    lines = process.communicate(timeout=60)[0].splitlines()
    result = json.loads(lines[-1])
    return Load(result["requests"] / result["microseconds"] * 1e6, result["p50"], result["p99"], result["errors"])


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Return the times, in seconds from the start, of a Poisson process."""
    generator = random.Random(seed)
    times = [generator.expovariate(rate)]
    while times[-1] < seconds:
        times.append(times[-1] + generator.expovariate(rate))
    return times[:-1]


class Connection:
    """A kept-alive connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = self._open()
        self._received = b""
        self.number = 0  # of the request under way

    def _open(self) -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, number: int, request: bytes) -> None:
        self.number, self._received = number, b""
        self._socket.sendall(request)

    def receive(self) -> bytes | None:
        """Read what is there; return the answer once it is whole, empty where the server closed before that."""
        data = self._socket.recv(65536)
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\ncontent-length: *(\d+)", head) if end else None
        if data and not (length and len(body) >= int(length[1])):
            return None
        if not data or re.search(rb"(?i)\nconnection: *close", head):
            self.close()
            self._socket = self._open()
        return self._received if data else b""

    def close(self) -> None:
        self._socket.close()


def open_loop(port: int, requests: Sequence[bytes], expected: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Send requests at the times of a Poisson process, whatever the answers do, and measure from those times.

    An answer that is not 200 or lacks its expected bytes is an error, as is one that has not come 5 s after the end.
    """
    due = arrivals(rate, seconds, seed=1)
    idle = [Connection(port) for _ in range(CONNECTIONS)]
    everyone = list(idle)
    busy: set[Connection] = set()
    latencies: list[float] = []
    errors = started = 0
    start = time.perf_counter()
    try:
        while (started < len(due) or busy) and (now := time.perf_counter() - start) < seconds + 5:
            while started < len(due) and due[started] <= now and idle:
                connection = idle.pop()
                connection.send(started, requests[started % len(requests)])
                busy.add(connection)
                started += 1
            wait = max(0.0, due[started] - now) if started < len(due) and idle else 1.0
            for connection in select.select(busy, (), (), wait)[0]:
                answer = connection.receive()
                if answer is None:
                    continue
                number = connection.number
                latencies.append((time.perf_counter() - start - due[number]) * 1000)
                errors += not (answer.startswith(b"HTTP/1.1 200") and expected[number % len(expected)] in answer)
                busy.remove(connection)
                idle.append(connection)
    finally:
        for connection in everyone:
            connection.close()
    errors += len(due) - len(latencies)
    took = time.perf_counter() - start
    if not latencies:
        return Load(0, math.inf, math.inf, errors)
    return Load(len(latencies) / took, percentile(latencies, 50), percentile(latencies, 99), errors)
