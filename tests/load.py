"""Clients that ask without end, over raw sockets, and count what became of each request while the server stops."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections import Counter
from types import TracebackType

BODY = b'{"descricao":"boneca de pano"}'


class Load:
    """So many clients, each asking again as soon as it is answered; a context manager, which waits for them to end.

    A client ends when it is refused once the context is left. An answer's `Connection: close` is obeyed.
    """

    def __init__(
        self, port: int, clients: int = 16, keep_alive: bool = False, body: bytes = BODY, host: str = "127.0.0.1"
    ) -> None:
        self.address = host, port
        self.keep_alive = keep_alive
        self.body = body
        self.statuses: Counter[int] = Counter()
        self.reset: list[str] = []  # ids of requests on a fresh connection that ended without one byte of an answer
        self.closed: list[str] = []  # the same on a connection that had answered before
        self.cut: list[str] = []  # ids of requests whose answer broke off
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while True:
            try:
                connection = socket.create_connection(self.address, timeout=10)
            except ConnectionResetError:  # established, and reset before this thread had its turn
                self.reset.append("")
                continue
            except OSError:  # refused, or the host has gone
                if self._ended.wait(0.01):
                    return
                continue
            with contextlib.closing(connection):
                self._ask_on(connection)

    def _ask_on(self, connection: socket.socket) -> None:
        outcome = self.reset
        while True:
            request_id = uuid.uuid4().hex
            answer = b""
            try:
                connection.sendall(request(request_id, self.keep_alive, self.body))
                answer = read_answer(connection)
            except (ConnectionError, TimeoutError):
                (self.cut if answer else outcome).append(request_id)
                return
            self.statuses[int(answer.split(None, 2)[1])] += 1
            if not self.keep_alive or b"\r\nConnection: close\r\n" in answer:
                return
            outcome = self.closed


def request(request_id: str, keep_alive: bool = False, body: bytes = BODY) -> bytes:
    """Return a prediction's request."""
    return (
        b"POST /api/predizer_categoria HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"X-Request-ID: %s\r\nConnection: %s\r\nContent-Length: %d\r\n\r\n"
        % (request_id.encode(), b"keep-alive" if keep_alive else b"close", len(body))
    ) + body


def read_answer(connection: socket.socket) -> bytes:
    """Return one answer, head and body; raise ConnectionError where the connection ends before it is whole."""
    answer = b""
    while True:
        head, end, body = answer.partition(b"\r\n\r\n")
        if end:
            length = int(head.partition(b"\r\nContent-Length: ")[2].partition(b"\r\n")[0])
            if len(body) >= length:
                return answer
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionError(f"ended after {answer!r}")
        answer += chunk
