"""The cases of tests/test_app.py on the FastAPI peer: pytest benchmarks/test_contract.py."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stacks import BY_NAME, running

pytest.register_assert_rewrite("tests.test_app", "tests.problems")

from tests.conftest import tiny_model  # noqa: E402, F401
from tests.test_app import *  # noqa: E402, F403

# These are about what is inside the Flask app, or what is nginx's.
del test_card_and_threshold_of_a_model_with_one, test_fault_of_ours_is_a_problem_and_its_log_holds_no_text  # noqa: F821
del test_sane_request_id_is_kept, test_other_request_id_is_replaced  # noqa: F821


class Reply:
    """An HTTP answer with what test_app.py asks of Flask's."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status_code, self.headers = response.status, response.headers
        self.content_type = response.headers.get("Content-Type", "")
        self.text = response.read().decode()

    def get_json(self) -> Any:
        return json.loads(self.text)


class UrlClient:
    """A server on a port of this machine with what test_app.py asks of Flask's client."""

    def __init__(self, port: int) -> None:
        self._port = port

    def open(
        self, path: str, method: str, data: bytes = b"", content_type: str = "", headers: dict[str, str] | None = None
    ) -> Reply:
        sent = {"X-Request-ID": "abc", **(headers or {}), **({"Content-Type": content_type} if content_type else {})}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)) as connection:
            connection.request(method, path, data or None, sent)
            reply = Reply(connection.getresponse())
            reply.headers["X-Request-ID"] = sent["X-Request-ID"]  # as nginx does
            return reply

    def get(self, path: str, **rest: Any) -> Reply:
        return self.open(path, "GET", **rest)

    def post(self, path: str, **rest: Any) -> Reply:
        return self.open(path, "POST", **rest)


@pytest.fixture(scope="module")
def client(tiny_model: Path) -> Iterator[UrlClient]:  # noqa: F811
    """The FastAPI peer on the tiny model, without nginx."""
    peer = dataclasses.replace(
        BY_NAME["fastapi-ours"],
        commands=[["uvicorn", "--port", "$PORT", "--http", "benchmarks.peers.fastapi_ours:Protocol",
                   "benchmarks.peers.fastapi_ours:app"]],
        path="/predizer_categoria",
        environment={"MODEL": str(tiny_model)},
    )  # fmt: skip
    peer.install()
    with running(peer, "boneca de pano", "brinquedo") as live:
        yield UrlClient(live.port)
