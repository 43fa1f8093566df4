"""The HTTP API: reads a request, asks the classifier, answers. nginx puts it under /api/ (see `default`)."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
import traceback
import unicodedata
import uuid
from collections.abc import Iterable
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    ServiceUnavailable,
    UnprocessableEntity,
    UnsupportedMediaType,
)

from classifier import Classifier

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

JSON = "application/json"
MAX_BODY = 256 * 1024  # bytes; nginx's client_max_body_size is the same
MAX_WAIT = 1.5  # seconds in the queue; nginx adds Retry-After
QUEUED_AT = 14  # characters of what nginx says of it: seconds, a point, milliseconds
MAX_TEXT = {"titulo": 500, "descricao": 20_000}  # code points after NFC
FOR_THE_LOG = "cadastro.for_the_log"  # in Flask's environ: headers of a prediction that nginx logs

DETAILS = {
    404: "Este endereço não existe nesta API.",
    405: "Este endereço não aceita este método; o cabeçalho Allow diz quais aceita.",
    413: "O corpo do pedido passa de 256 KiB; envie um texto menor.",
    500: "Houve um erro interno, que foi registrado. Tente de novo.",
    503: "O serviço está ocupado; tente de novo em um segundo.",
}

# What the hot path leaves to Flask: the request's faults, and whatever a model raises, which gunicorn would answer in
# HTML and log with its words. Flask meets it again, answers it and logs it by App.log_exception.
FAULTS = Exception


class InvalidField(UnprocessableEntity):
    """422: a field of the request does not do; `field` is its name."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = field


class App(Flask):
    """Flask, but for its log, since an exception's own words may hold the seller's text, and every answer's headers.

    after_request would do for those, and Response for a prediction's, but each takes a tenth of a prediction's time.
    """

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, as Flask's own does; the request's id is sane from here on."""
        request_id = environ["HTTP_X_REQUEST_ID"] = sane_id(environ.get("HTTP_X_REQUEST_ID", ""))
        for_the_log: list[tuple[str, str]] = []
        environ[FOR_THE_LOG] = for_the_log

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, headers + for_the_log + own_headers(request_id), exc_info)

        return super().wsgi_app(environ, start)

    def log_exception(self, exc_info: tuple[type, BaseException, TracebackType] | tuple[None, None, None]) -> None:
        kind, _, trace = exc_info
        frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]
        line = {"request_id": request.headers["X-Request-ID"], "error": kind and kind.__name__, "frames": frames}
        print(json.dumps(line), file=sys.stderr, flush=True)


class HotPath:
    """Answers the one hot request, a plain and well-formed prediction, before Flask; hands on whatever else comes.

    Flask's routing, request and response take longer than the prediction.
    """

    def __init__(self, rest: WSGIApplication, classifier: Classifier, cors: bool) -> None:
        self._rest, self._classifier, self._cors = rest, classifier, cors

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if (
            environ["PATH_INFO"] == "/predizer_categoria"
            and environ["REQUEST_METHOD"] == "POST"
            and not environ["QUERY_STRING"]
            and environ.get("CONTENT_TYPE") == JSON
            and (length := environ.get("CONTENT_LENGTH", "")).isdecimal()
            and int(length) <= MAX_BODY
            and not waited_too_long(environ.get("HTTP_X_QUEUED_AT", ""))
            and not (self._cors and "HTTP_ORIGIN" in environ)
        ):
            body = environ["wsgi.input"].read(int(length))
            try:
                answer, for_the_log = predict_and_tell(self._classifier, body)
            except FAULTS:
                environ["wsgi.input"] = io.BytesIO(body)  # for Flask to read again, and to answer it
            else:
                request_id = sane_id(environ.get("HTTP_X_REQUEST_ID", ""))
                headers = [("Content-Type", JSON), ("Content-Length", str(len(answer)))]
                start_response("200 OK", headers + for_the_log + own_headers(request_id))
                return [answer]
        return self._rest(environ, start_response)


def create_app(model: str | os.PathLike[str], hot: bool = True, cors_origins: str = "") -> Flask:
    """Return the application that serves the model file, with the hot path or by Flask alone.

    cors_origins are the origins, with commas between, whose pages may read the answers; "" is no CORS at all.
    Raises ModelError where the file cannot be served.
    """
    classifier = Classifier(model)
    app = App(__name__, static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY, PROVIDE_AUTOMATIC_OPTIONS=bool(cors_origins))
    app.url_map.merge_slashes = False  # no redirect, which would be HTML

    @app.before_request
    def read_body() -> None:
        request.get_data()  # an answer before the body is read would reset nginx's connection: a 502 for the client

    @app.post("/predizer_categoria")
    def predizer_categoria() -> Response:
        environ, body = request.environ, request.get_data()
        if waited_too_long(environ.get("HTTP_X_QUEUED_AT", "")):
            raise ServiceUnavailable
        # Most of what request would take apart is mostly not there.
        if environ.get("CONTENT_TYPE") != JSON and request.mimetype != JSON:
            raise UnsupportedMediaType("O Content-Type deve ser application/json.")
        if environ["QUERY_STRING"] and request.args.get("detalhes") == "1":
            details = classifier.explain(read_text(body))
            environ[FOR_THE_LOG] += log_headers(details["categoria"], details["incerto"])
            return json_response(encode(details))
        answer, for_the_log = predict_and_tell(classifier, body)
        environ[FOR_THE_LOG] += for_the_log
        return json_response(answer)

    @app.get("/modelo")
    def modelo() -> Response:
        return json_response(encode(classifier.card()))

    @app.get("/health")
    def health() -> Response:
        classifier.predict("boneca de pano")
        return json_response(encode({"status": "ok"}))

    @app.errorhandler(HTTPException)
    def problem(error: HTTPException) -> Response:
        """Answer any error as problem+json (RFC 9457); headers such as Allow stay."""
        status = error.code or 500
        detail = DETAILS.get(status, error.description)
        campo = {"campo": error.field} if isinstance(error, InvalidField) else {}
        body = problem_body(status, error.name, detail, request.headers["X-Request-ID"], **campo)
        headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
        return Response(body, status, headers, content_type="application/problem+json")

    if cors_origins:
        from flask_cors import CORS  # here, so that who has no use for it pays nothing for it

        CORS(
            app,
            origins=cors_origins.split(","),
            methods=["GET", "POST"],
            allow_headers=["Content-Type", "X-Request-ID"],
            expose_headers=["Allow", "Retry-After", "X-Request-ID"],  # `default` says the same
            max_age=7200,  # seconds that a preflight is good for; Chromium takes no more
            always_send=False,
            vary_header=False,  # no answer is stored
        )
    if hot:
        app.wsgi_app = HotPath(app.wsgi_app, classifier, bool(cors_origins))  # type: ignore[method-assign]
    return app


def waited_too_long(queued_at: str) -> bool:
    """Return whether a request has been in the queue for more than MAX_WAIT, by the Unix time when nginx put it there.

    nginx gives up after 2 s. A model so slow that the queue holds more than that would work on each request just too
    late, and answer none. The time is not there where nginx is on another machine, with a clock of its own.
    """
    try:
        return len(queued_at) == QUEUED_AT and time.time() - float(queued_at) > MAX_WAIT
    except ValueError:
        return False


def predict_and_tell(classifier: Classifier, body: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """Return the answer to a plain prediction and what nginx logs of it; raises as read_text does."""
    return plain_answer(*classifier.predict_with_doubt(read_text(body)))


@lru_cache(maxsize=None, typed=True)
def plain_answer(categoria: str, incerto: bool | None) -> tuple[bytes, list[tuple[str, str]]]:
    return encode({"categoria": categoria}), log_headers(categoria, incerto)


def log_headers(categoria: str, incerto: bool | None) -> list[tuple[str, str]]:
    """Return the headers that nginx logs and takes off the answer.

    A category is whatever the model's author called it: it goes as UTF-8, in the Latin-1 that WSGI asks for (PEP
    3333), bounded so that it fits nginx's buffer, and what no header may hold becomes a question mark.
    """
    shown = re.sub(r"[\x00-\x1f\x7f]", "?", str(categoria)[:200]).encode(errors="replace").decode("latin-1")
    return [("X-Log-Categoria", shown), ("X-Log-Incerto", "null" if incerto is None else str(incerto).lower())]


def problem_body(status: int, title: str, detail: str | None, request_id: str, **more: str) -> bytes:
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail, "request_id": request_id}
    return encode(problem | more)


def encode(body: Any) -> bytes:
    """Return the body as JSON with a line end, for who reads it in a terminal."""
    text = ENCODER.encode(body) + "\n"
    return text.encode(errors="backslashreplace")  # half of a surrogate pair becomes the escape that it came as


def json_response(body: bytes) -> Response:
    return Response(body, content_type=JSON)


def read_text(body: bytes) -> str:
    """Return the text to classify from a request's body, in Unicode NFC: descricao, after titulo if there is one.

    Raises BadRequest and InvalidField.
    """
    fields = read_json(body)
    if not isinstance(fields, dict):
        raise InvalidField("descricao", 'O corpo deve ser um objeto JSON, como {"descricao": "boneca de pano"}.')
    if "descricao" not in fields:
        raise InvalidField("descricao", "Falta o campo descricao.")
    texts = [read_field(fields, name) for name in MAX_TEXT if name in fields]
    if not texts[-1].strip():
        raise InvalidField("descricao", "O campo descricao está em branco.")
    return " ".join(texts)


def read_field(fields: dict[str, Any], name: str) -> str:
    if not isinstance(fields[name], str):
        raise InvalidField(name, f"O campo {name} deve ser um texto.")
    text = unicodedata.normalize("NFC", fields[name])
    if len(text) > MAX_TEXT[name]:
        raise InvalidField(name, f"O campo {name} passa de {MAX_TEXT[name]} caracteres.")
    return text


def read_json(body: bytes) -> Any:
    try:
        return DECODER.decode(body.removeprefix(BOM).decode())
    except UnicodeDecodeError:
        raise BadRequest("O corpo não está em UTF-8.") from None
    except RecursionError:
        raise BadRequest("O JSON tem níveis demais.") from None
    except ValueError as error:
        where = f" (linha {error.lineno}, coluna {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise BadRequest(f"O corpo não é JSON{where}.") from None


def refuse_constant(name: str) -> None:
    raise ValueError(name)  # Python's json takes NaN and Infinity, RFC 8259 does not


BOM = b"\xef\xbb\xbf"
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
# Numbers are never used, so they become floats: int() refuses more than 4,300 digits, which JSON does not.
DECODER = json.JSONDecoder(parse_int=float, parse_constant=refuse_constant)


def sane_id(given: str) -> str:
    """Return the client's X-Request-ID where it is sane, else a new one."""
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,128}", given) else uuid.uuid4().hex


def own_headers(request_id: str) -> list[tuple[str, str]]:
    """Return the headers that every answer has."""
    return [("X-Request-ID", request_id), ("Cache-Control", "no-store")]


app = create_app(os.environ.get("MODEL", "model.sav"), cors_origins=os.environ.get("CORS_ORIGINS", ""))
