"""The one way in which tests check an error of the API, whoever made it."""

from __future__ import annotations

from typing import Any


def assert_problem(status: int, headers: Any, body: Any, expected: int, campo: str | None = None) -> None:
    """Check a status, headers (any mapping) and decoded body against RFC 9457 as the contract has it."""
    assert status == expected, body
    assert headers["Content-Type"] == "application/problem+json"
    fields = {"type", "title", "status", "detail", "request_id"}
    assert set(body) == (fields | {"campo"} if campo else fields)
    assert body["type"] == "about:blank"
    assert body["status"] == expected
    assert body["title"]
    assert body["detail"].endswith(".")
    assert body["request_id"] == headers["X-Request-ID"]
    assert body.get("campo") == campo
