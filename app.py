"""The HTTP API: reads a request, asks the classifier, answers. nginx puts it under /api/ (see `default`)."""

from __future__ import annotations

import json
import os
import re
import traceback
import unicodedata
import uuid
from types import TracebackType
from typing import Any

from flask import Flask, Response, g, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, HTTPException, UnprocessableEntity, UnsupportedMediaType

from classifier import Classifier

MAX_BODY = 256 * 1024  # bytes; nginx's client_max_body_size is the same
MAX_TEXT = {"titulo": 500, "descricao": 20_000}  # code points after NFC

DETAILS = {
    404: "Este endereço não existe nesta API.",
    405: "Este endereço não aceita este método; o cabeçalho Allow diz quais aceita.",
    413: "O corpo do pedido passa de 256 KiB; envie um texto menor.",
    500: "Houve um erro interno, que foi registrado. Tente de novo.",
}


class InvalidField(UnprocessableEntity):
    """422: a field of the request does not do; `field` is its name."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = field


class App(Flask):
    """Flask, but for its log: an exception's own words may hold the seller's text."""

    def log_exception(self, exc_info: tuple[type, BaseException, TracebackType] | tuple[None, None, None]) -> None:
        kind, _, trace = exc_info
        frames = "".join(traceback.format_tb(trace))
        self.logger.error("request %s: %s\n%s", request_id(), kind and kind.__name__, frames)


def create_app(model: str | os.PathLike[str]) -> Flask:
    """Return the application that serves the model file; raises ModelError where it cannot be served."""
    classifier = Classifier(model)
    app = App(__name__, static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY, PROVIDE_AUTOMATIC_OPTIONS=False)
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False  # no redirect, which would be HTML

    @app.post("/predizer_categoria")
    def predizer_categoria() -> ResponseReturnValue:
        text = read_text()
        if request.args.get("detalhes") == "1":
            return jsonify(classifier.explain(text))
        return jsonify(categoria=classifier.predict(text))

    @app.get("/modelo")
    def modelo() -> ResponseReturnValue:
        return jsonify(classifier.card())

    @app.get("/health")
    def health() -> ResponseReturnValue:
        classifier.predict("boneca de pano")
        return jsonify(status="ok")

    @app.errorhandler(HTTPException)
    def problem(error: HTTPException) -> Response:
        """Answer any error as problem+json (RFC 9457); headers such as Allow stay."""
        status = error.code or 500
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": error.name,
            "status": status,
            "detail": DETAILS.get(status, error.description),
            "request_id": request_id(),
        }
        if isinstance(error, InvalidField):
            body["campo"] = error.field
        response = jsonify(body)
        response.status_code = status
        response.headers.extend({k: v for k, v in error.get_headers() if k != "Content-Type"})
        response.mimetype = "application/problem+json"
        return response

    @app.after_request
    def common_headers(response: Response) -> Response:
        response.headers["X-Request-ID"] = request_id()
        response.headers["Cache-Control"] = "no-store"
        return response

    return app


def read_text() -> str:
    """Return the text to classify from the request's body, in Unicode NFC: descricao, after titulo if there is one."""
    body = read_json()
    if not isinstance(body, dict):
        raise InvalidField("descricao", 'O corpo deve ser um objeto JSON, como {"descricao": "boneca de pano"}.')
    if "descricao" not in body:
        raise InvalidField("descricao", "Falta o campo descricao.")
    texts = [read_field(body, name) for name in ("titulo", "descricao") if name in body]
    if not texts[-1].strip():
        raise InvalidField("descricao", "O campo descricao está em branco.")
    return " ".join(texts)


def read_field(body: dict[str, Any], name: str) -> str:
    if not isinstance(body[name], str):
        raise InvalidField(name, f"O campo {name} deve ser um texto.")
    text = unicodedata.normalize("NFC", body[name])
    if len(text) > MAX_TEXT[name]:
        raise InvalidField(name, f"O campo {name} passa de {MAX_TEXT[name]} caracteres.")
    return text


def read_json() -> Any:
    """Return the request's body, decoded; raises 415 and 400."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("O Content-Type deve ser application/json.")
    try:
        # Numbers are never used, so they become floats: int() refuses more than 4,300 digits, which JSON does not.
        return json.loads(request.get_data().decode("utf-8-sig"), parse_int=float, parse_constant=refuse_constant)
    except UnicodeDecodeError:
        raise BadRequest("O corpo não está em UTF-8.") from None
    except RecursionError:
        raise BadRequest("O JSON tem níveis demais.") from None
    except ValueError as error:
        where = f" (linha {error.lineno}, coluna {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise BadRequest(f"O corpo não é JSON{where}.") from None


def refuse_constant(name: str) -> None:
    raise ValueError(name)  # Python's json takes NaN and Infinity, RFC 8259 does not


def request_id() -> str:
    """Return the client's X-Request-ID where it is sane, else a new one; the same for the whole request."""
    if "request_id" not in g:
        given = request.headers.get("X-Request-ID", "")
        g.request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,128}", given) else uuid.uuid4().hex
    return str(g.request_id)


app = create_app(os.environ.get("MODEL", "model.sav"))
