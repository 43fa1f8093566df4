"""The HTTP API: reads a request, asks the classifier, answers. nginx puts it under /api/ (see `default`)."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
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
BODY = "cadastro.body"  # in the environ, once it is read

DETAILS = {
    404: "Este endereço não existe nesta API.",
    405: "Este endereço não aceita este método; o cabeçalho Allow diz quais aceita.",
    413: "O corpo do pedido passa de 256 KiB; envie um texto menor.",
    500: "Houve um erro interno, que foi registrado. Tente de novo.",
    503: "O serviço está ocupado; tente de novo em um segundo.",
}


class InvalidField(UnprocessableEntity):
    """422: a field of the request does not do; `field` is its name."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = field


class App(Flask):
    """Flask, but for its log, since an exception's own words may hold the seller's text, and how it reads a body."""

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Read the body before anything is answered, or nginx's connection would be reset: a 502 for the client.

        A function of before_request would cost some microseconds each time.
        """
        body = environ[BODY] if BODY in environ else read_body(environ)
        if len(body) <= MAX_BODY:
            return super().wsgi_app(environ, start_response)
        with self.request_context(environ):
            answer = self.handle_user_exception(RequestEntityTooLarge())
            return self.make_response(answer)(environ, start_response)

    def log_exception(self, exc_info: tuple[type, BaseException, TracebackType] | tuple[None, None, None]) -> None:
        kind, _, trace = exc_info
        frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]
        line = {"request_id": request_id(), "error": kind and kind.__name__, "frames": frames}
        print(json.dumps(line), file=sys.stderr, flush=True)


class HotPath:
    """Answers the one hot request, a plain and well-formed prediction, before Flask; hands on whatever else comes.

    Flask's routing, request and response take longer than the prediction.
    """

    def __init__(self, rest: WSGIApplication, classifier: Classifier, cors: bool) -> None:
        self._rest, self._classifier, self._cors = rest, classifier, cors

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = read_body(environ)
        if (
            environ["PATH_INFO"] == "/predizer_categoria"
            and environ["REQUEST_METHOD"] == "POST"
            and not environ["QUERY_STRING"]
            and environ.get("CONTENT_TYPE") == JSON
            and len(body) <= MAX_BODY
            and not waited_too_long(environ.get("HTTP_X_QUEUED_AT", ""))
            and not (self._cors and "HTTP_ORIGIN" in environ)
        ):
            try:
                answer, for_the_log = predict_and_tell(self._classifier, body)
            except Exception:  # the request's fault, or whatever a model raises
                pass  # Flask meets it again, answers it, and logs what is ours: gunicorn would answer in HTML
            else:
                start_response("200 OK", [("Content-Type", JSON), ("Content-Length", str(len(answer))), for_the_log])
                return [answer]
        return self._rest(environ, start_response)


def create_app(model: str | os.PathLike[str], hot: bool = True, cors_origins: str = "") -> Flask:
    """Return the application that serves the model file, with the hot path or by Flask alone.

    cors_origins are the origins, with commas between, whose pages may read the answers; "" is no CORS at all.
    Raises ModelError where the file cannot be served.
    """
    classifier = Classifier(model)
    app = App(__name__, static_folder=None)
    app.config.update(PROVIDE_AUTOMATIC_OPTIONS=bool(cors_origins))
    app.url_map.merge_slashes = False  # no redirect, which would be HTML

    @app.post("/predizer_categoria")
    def predizer_categoria() -> Response:
        environ = request.environ
        if waited_too_long(environ.get("HTTP_X_QUEUED_AT", "")):
            raise ServiceUnavailable
        # The environ first: request's own mimetype and args take it apart each time.
        if environ.get("CONTENT_TYPE") != JSON and request.mimetype != JSON:
            raise UnsupportedMediaType("O Content-Type deve ser application/json.")
        if environ["QUERY_STRING"] and request.args.get("detalhes") == "1":
            details = classifier.explain(read_text(environ[BODY]))
            return json_response(encode(details), log_header(details["categoria"], details["incerto"]))
        return json_response(*predict_and_tell(classifier, environ[BODY]))

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
        body = problem_body(status, error.name, detail, request_id(), **campo)
        headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
        return Response(body, status, headers, content_type="application/problem+json")

    if cors_origins:
        from flask_cors import CORS  # here, since it takes time and memory at the start

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


def read_body(environ: WSGIEnvironment) -> bytes:
    """Return the request's body and keep it in the environ; of one that is too large no more than shows that.

    Its length is there and a number: nginx says it, or standalone.py, also where the body came in chunks.
    """
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body: bytes = environ["wsgi.input"].read(min(length, MAX_BODY + 1))
    environ[BODY] = body
    return body


def request_id() -> str:
    """Return the request's id, which nginx gave it, or standalone.py; either says it in the answer, too."""
    return request.headers.get("X-Request-ID", "")


def predict_and_tell(classifier: Classifier, body: bytes) -> tuple[bytes, tuple[str, str]]:
    """Return the answer to a plain prediction and the header that tells the log of it; raises as read_text does."""
    return plain_answer(*classifier.predict_with_doubt(read_text(body)))


@lru_cache(maxsize=None, typed=True)  # a model has not many categories; one may be 1, and another True
def plain_answer(categoria: str, incerto: bool | None) -> tuple[bytes, tuple[str, str]]:
    return encode({"categoria": categoria}), log_header(categoria, incerto)


def log_header(categoria: str, incerto: bool | None) -> tuple[str, str]:
    """Return the header that tells nginx's log what an answer says; nginx takes it off.

    A category is whatever the model's author called it: it goes as UTF-8, in the Latin-1 that WSGI asks for (PEP
    3333), bounded so that it fits nginx's buffer, and what no header may hold becomes a question mark.
    """
    shown = re.sub(r"[\x00-\x1f\x7f]", "?", str(categoria)[:200]).encode(errors="replace").decode("latin-1")
    return "X-Log", f"{json.dumps(incerto)} {shown}"


def problem_body(status: int, title: str, detail: str | None, request_id: str, **more: str) -> bytes:
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail, "request_id": request_id}
    return encode(problem | more)


def encode(body: Any) -> bytes:
    """Return the body as JSON with a line end, for who reads it in a terminal."""
    text = ENCODER.encode(body) + "\n"
    return text.encode(errors="backslashreplace")  # half of a surrogate pair becomes the escape that it came as


def json_response(body: bytes, *headers: tuple[str, str]) -> Response:
    response = Response(body, content_type=JSON)
    for header in headers:
        response.headers.add(*header)  # half as long as by Response's own argument
    return response


def read_text(body: bytes) -> str:
    """Return the text to classify from a request's body, in Unicode NFC: descricao, after titulo if there is one.

    Raises BadRequest and InvalidField.
    """
    fields = read_json(body)
    if not isinstance(fields, dict):
        raise InvalidField("descricao", 'O corpo deve ser um objeto JSON, como {"descricao": "boneca de pano"}.')
    if "descricao" not in fields:
        raise InvalidField("descricao", "Falta o campo descricao.")
    descricao = read_field(fields, "descricao")
    if not descricao.strip():
        raise InvalidField("descricao", "O campo descricao está em branco.")
    return f"{read_field(fields, 'titulo')} {descricao}" if "titulo" in fields else descricao


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


app = create_app(os.environ.get("MODEL", "model.sav"), cors_origins=os.environ.get("CORS_ORIGINS", ""))
