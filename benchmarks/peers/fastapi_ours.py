"""The product's contract and classifier on FastAPI instead of Flask, so that the choice can be measured and reversed.

Validation, answers and texts are app.py's own, and it passes the cases of tests/test_app.py:
pytest benchmarks/test_contract.py.
"""
# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator"

from __future__ import annotations

import http
import os
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from werkzeug.exceptions import HTTPException as Fault

import app as product


class Protocol(HttpToolsProtocol):  # type: ignore[misc] # it is Any where uvicorn is not installed
    """uvicorn's, which answers a method that its parser does not know with a 400 in plain text, not the app's 405."""

    def data_received(self, data: bytes) -> None:
        method, _, rest = data.partition(b" /")
        if (
            method not in METHODS
            and method.isalpha()
            and method.isupper()
            and (not self.cycle or self.cycle.response_complete)
        ):
            data = b"PATCH /" + rest  # nor does the app know that one
        super().data_received(data)


METHODS = {b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"}
classifier = product.app.wsgi_app._classifier  # type: ignore[attr-defined] # app.py has loaded it, on being imported
app = FastAPI(openapi_url=None, redirect_slashes=False)
if "READY_FILE" in os.environ:  # launch.py waits for it; the socket is open already, and the app can predict
    Path(os.environ["READY_FILE"]).touch()


def answer(body: bytes, *headers: tuple[str, str]) -> Response:
    return Response(body, headers=dict([("Content-Type", product.JSON), *headers]))


@app.post("/predizer_categoria")
async def predizer_categoria(request: Request) -> Response:
    if product.waited_too_long(request.headers.get("X-Queued-At", "")):
        return problem(request, 503)
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != product.JSON:
        return problem(request, 415, "O Content-Type deve ser application/json.")
    if int(request.headers.get("Content-Length", 0)) > product.MAX_BODY:
        return problem(request, 413)
    body = await request.body()
    try:
        if request.query_params.get("detalhes") == "1":
            details = classifier.explain(product.read_text(body))
            return answer(product.encode(details), product.log_header(details["categoria"], details["incerto"]))
        return answer(*product.predict_and_tell(classifier, body))
    except Fault as fault:
        return problem(request, fault.code or 500, fault.description, getattr(fault, "field", None))


@app.api_route("/modelo", methods=["GET", "HEAD"])
async def modelo(request: Request) -> Response:
    return answer(product.encode(classifier.card()))


@app.api_route("/health", methods=["GET", "HEAD"])
async def health(request: Request) -> Response:
    classifier.predict("boneca de pano")
    return answer(product.encode({"status": "ok"}))


@app.exception_handler(HTTPException)
async def unanswered(request: Request, error: HTTPException) -> Response:
    response = problem(request, error.status_code)
    response.headers.update(error.headers or {})
    return response


@app.exception_handler(Exception)
async def failed(request: Request, error: Exception) -> Response:
    return problem(request, 500)


def problem(request: Request, status: int, detail: str | None = None, field: str | None = None) -> Response:
    body = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": product.DETAILS.get(status, detail),
        "request_id": request.headers.get("X-Request-ID", ""),
    }
    if field:
        body["campo"] = field
    return Response(product.encode(body), status, {"Content-Type": "application/problem+json"})
