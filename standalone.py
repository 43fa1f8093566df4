"""What nginx does for the app where there is none: errors of HTTP, patience with clients, headers, and the log."""

from __future__ import annotations

import contextlib
import datetime
import io
import ipaddress
import json
import os
import re
import socket
import uuid
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gunicorn import http, util
from gunicorn.glogging import Logger
from gunicorn.http import errors
from gunicorn.workers.sync import SyncWorker

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PATIENCE = 2.0  # seconds of a wait for the client, which its worker spends with nobody else
DRAIN = 16 * 2**20  # bytes of a body too large that are read after its answer, or the client would not get to see that

STATUS = {
    errors.ConfigurationProblem: 404,  # a path outside SCRIPT_NAME
    errors.LimitRequestLine: 414,
    errors.ExpectationFailed: 417,
    errors.LimitRequestHeaders: 431,
    errors.UnsupportedTransferCoding: 501,
    errors.InvalidHTTPVersion: 505,
}
DETAILS = {
    400: "O pedido HTTP está malformado.",
    404: "Este endereço não existe.",
    408: "O pedido demorou demais a chegar.",
    414: "O endereço passa de 4 KiB.",
    417: "O cabeçalho Expect não é aceito.",
    431: "Os cabeçalhos do pedido são grandes demais.",
    501: "O servidor não conhece esta codificação do corpo.",
    505: "Esta versão de HTTP não é aceita.",
}
ADDRESS = re.compile(r"/api/(predizer_categoria|modelo|health)")


class Worker(SyncWorker):  # type: ignore[misc] # gunicorn has no type hints
    """gunicorn's own, but for its errors, in HTML, and its patience with a client, which ends in its death."""

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi = with_own_headers(self.wsgi)  # type: ignore[has-type] # which gunicorn does not tell

    def handle(self, listener: Any, client: socket.socket, address: Any) -> None:
        from app import MAX_BODY  # gunicorn has loaded it by now, as preload_app says

        client.settimeout(PATIENCE)
        unread = True
        try:
            request = next(http.get_parser(self.cfg, client, address))
            if request._expected_100_continue:
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                request._expected_100_continue = False
            body = request.body.read(MAX_BODY + 1)  # here, where what is wrong with it has an answer
            request.body = io.BytesIO(body)
            names = {name for name, _ in request.headers}
            # X-Queued-At is for nginx alone to say; the length of what came in chunks is known by now.
            request.headers = [each for each in request.headers if each[0] not in {"TRANSFER-ENCODING", "X-QUEUED-AT"}]
            if "TRANSFER-ENCODING" in names:
                request.headers.append(("CONTENT-LENGTH", str(len(body))))
            answer = Answer(client)
            self.handle_request(listener, request, answer, address)
            answer.flush()
            unread = len(body) > MAX_BODY
        except (errors.NoMoreData, StopIteration, ConnectionError):
            pass  # the client has gone
        except TimeoutError:
            refuse(client, address, 408)
        except errors.ParseException as error:
            refuse(client, address, STATUS.get(type(error), 400))
        finally:
            util.close_graceful(client, PATIENCE, DRAIN) if unread else client.close()


class Answer:
    """A connection for gunicorn that keeps what is to be sent until all of it is there.

    gunicorn sends the head first. Of a worker that was killed then, nginx in another container would have passed on the
    head, and could ask no other any more.
    """

    def __init__(self, client: socket.socket) -> None:
        self._client, self._pieces = client, list[bytes]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def sendall(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def flush(self) -> None:
        self._client.sendall(b"".join(self._pieces))


def with_own_headers(app: WSGIApplication) -> WSGIApplication:
    """Return the application, but for the headers that every answer has, and a sane id for each request."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        own = own_headers(sane_id(environ.get("HTTP_X_REQUEST_ID", "")))
        environ["HTTP_X_REQUEST_ID"] = own["X-Request-ID"]

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, *own.items()], exc_info)

        return app(environ, start)

    return call


def own_headers(request_id: str) -> dict[str, str]:
    """Return the headers that every answer has."""
    return {"X-Request-ID": request_id, "Cache-Control": "no-store"}


def sane_id(given: str) -> str:
    """Return the client's X-Request-ID where it is sane, else a new one."""
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,128}", given) else uuid.uuid4().hex


def refuse(client: socket.socket, address: Any, status: int) -> None:
    """Answer a request that no app gets to see."""
    from app import problem_body

    title = HTTPStatus(status).phrase
    headers = own_headers(sane_id(""))
    body = problem_body(status, title, DETAILS[status], headers["X-Request-ID"])
    headers |= {"Content-Type": "application/problem+json", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with contextlib.suppress(OSError):
        client.sendall(f"HTTP/1.1 {status} {title}\r\nConnection: close\r\n{head}\r\n".encode() + body)
    log(headers, address[0], "", "", status, len(body), 0.0)


class Log(Logger):  # type: ignore[misc]
    """gunicorn's own for its errors; the access log is as nginx's."""

    def access(self, response: Any, request: Any, environ: dict[str, Any], duration: datetime.timedelta) -> None:
        path = found[0] if (found := ADDRESS.fullmatch(request.path)) else ""
        routers = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
        client = request.peer_addr[0]
        with contextlib.suppress(ValueError):
            if not ipaddress.ip_address(client.removeprefix("::ffff:")).is_global:  # a cloud's router, as for nginx
                client = str(ipaddress.ip_address(routers[-1].strip()))
        status = int(response.status.split()[0])
        log(dict(response.headers), client, request.method, path, status, response.sent, duration.total_seconds())


def log(headers: dict[str, str], client: str, method: str, path: str, status: int, sent: int, seconds: float) -> None:
    """Write a line with the fields of nginx's, the headers being the answer's: see log_format in `default`."""
    incerto, _, categoria = headers.get("X-Log", "").partition(" ")
    line = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "request_id": headers.get("X-Request-ID", ""),
        "client": client,
        "method": method,
        "path": path,
        "status": status,
        "bytes": sent,
        "seconds": round(seconds, 3),
        "upstream_seconds": None,
        "categoria": categoria.encode("latin-1").decode(errors="replace"),
        "incerto": {"true": True, "false": False}.get(incerto),
    }
    os.write(1, (json.dumps(line, ensure_ascii=False) + "\n").encode())  # at once, so that no two lines mix
