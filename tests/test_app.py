"""The HTTP contract, through Flask's client."""

from __future__ import annotations

import json
import pickle
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app, log_header
from tests.conftest import client_of
from tests.problems import assert_problem

JSON = "application/json"
LONE_SURROGATE = b'{"descricao": "boneca \\ud83d de pano"}'


def post(client: FlaskClient, body: Any, query: str = "", content_type: str = JSON, **headers: str) -> TestResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(f"/predizer_categoria{query}", data=data, content_type=content_type, headers=headers)


def test_answer_is_the_category_and_nothing_more(client: FlaskClient) -> None:
    response = post(client, {"descricao": "boneca de pano"})

    assert (response.status_code, response.content_type) == (200, JSON)
    assert response.text.strip() == '{"categoria":"brinquedo"}'


def test_titulo_stands_before_descricao(client: FlaskClient) -> None:
    separate = post(client, {"titulo": "Batom", "descricao": "livro"}, "?detalhes=1").get_json()
    joined = post(client, {"descricao": "Batom livro"}, "?detalhes=1").get_json()

    assert separate == joined


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"descricao": "boneca de pano"}',
        LONE_SURROGATE,
        b'{"descricao": "boneca de pano", "preco": %s}' % (b"9" * 5000),
        b'{"descricao": "boneca de pano", "marca": {"nome": null}, "vect": []}',
        b'{"descricao": "boneca de pano", "titulo": ""}',
        json.dumps({"descricao": "boneca " * 2857}).encode(),
        json.dumps({"descricao": "boneca", "titulo": "\U0001f600" * 500}).encode(),
        json.dumps({"descricao": "boneca \U0001f9f8" + "\U0001f600" * 19_992}).encode(),
        json.dumps({"descricao": "boneca " + "e\u0301" * 19_993}).encode(),  # 20,000 characters once composed
    ],
)
@pytest.mark.parametrize("query", ["", "?detalhes=1"])
def test_unusual_but_good_input(client: FlaskClient, body: bytes, query: str) -> None:
    response = post(client, body, query)

    assert response.status_code == 200, response.text
    assert response.get_json()["categoria"] == "brinquedo"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON"])
def test_content_type_may_have_parameters_and_capitals(client: FlaskClient, content_type: str) -> None:
    assert post(client, {"descricao": "boneca"}, content_type=content_type).status_code == 200


def test_nfc_and_nfd_get_the_same_answer(client: FlaskClient) -> None:
    answers = [
        post(client, {"descricao": unicodedata.normalize(form, "romance de época")}, "?detalhes=1").get_json()
        for form in ("NFC", "NFD")
    ]

    assert answers[0] == answers[1]
    assert "época" in [word["palavra"] for word in answers[0]["palavras"]]


def test_details(client: FlaskClient) -> None:
    answer = post(client, {"descricao": "Boneca, de pano"}, "?detalhes=1").get_json()

    assert list(answer) == ["categoria", "confianca", "incerto", "alternativas", "palavras"]
    assert answer["categoria"] == "brinquedo"
    assert answer["incerto"] is (answer["confianca"] < 0.5)
    assert [set(each) for each in answer["alternativas"]] == [{"categoria", "confianca"}] * 2
    confidences = [answer["confianca"]] + [each["confianca"] for each in answer["alternativas"]]
    assert confidences == sorted(confidences, reverse=True)
    assert sum(confidences) == pytest.approx(1)
    assert {word["palavra"] for word in answer["palavras"]} >= {"boneca", "pano"}


@pytest.mark.parametrize("query", ["?detalhes=0", "?detalhes", "?detalhes=sim", "?outro=1", "?%ff=%ff"])
def test_no_details_unless_asked_for(client: FlaskClient, query: str) -> None:
    assert post(client, {"descricao": "boneca"}, query).get_json() == {"categoria": "brinquedo"}


def test_text_without_a_known_word_is_uncertain(client: FlaskClient) -> None:
    answer = post(client, {"descricao": "игрушка 玩具"}, "?detalhes=1").get_json()

    assert (answer["incerto"], answer["palavras"]) == (True, [])


BAD_BODIES = {
    "empty": (b"", 400, None),
    "not json": (b"descricao=boneca", 400, None),
    "truncated": (b'{"descricao": "bon', 400, None),
    "two values": (b'{"descricao": "a"} {}', 400, None),
    "NaN": (b'{"descricao": "a", "x": NaN}', 400, None),
    "Infinity": (b'{"descricao": "a", "x": -Infinity}', 400, None),
    "latin-1": ('{"descricao": "pião"}'.encode("latin-1"), 400, None),
    "utf-16": ('{"descricao": "a"}'.encode("utf-16"), 400, None),
    "too deep": (b'{"descricao":' * 15_000, 400, None),
    "too deep lists": (b"[" * 100_000, 400, None),
    "array": (b"[]", 422, "descricao"),
    "string": (b'"boneca"', 422, "descricao"),
    "null": (b"null", 422, "descricao"),
    "number": (b"1e400", 422, "descricao"),
    "missing": (b"{}", 422, "descricao"),
    "descricao null": (b'{"descricao": null}', 422, "descricao"),
    "descricao number": (b'{"descricao": 1}', 422, "descricao"),
    "descricao list": (b'{"descricao": ["a"]}', 422, "descricao"),
    "descricao empty": (b'{"descricao": ""}', 422, "descricao"),
    "descricao blank": (b'{"descricao": " \\n\\t\\u00a0\\u3000"}', 422, "descricao"),
    "descricao blank after a titulo": (b'{"titulo": "boneca", "descricao": " "}', 422, "descricao"),
    "descricao too long": (json.dumps({"descricao": "a" * 20_001}).encode(), 422, "descricao"),
    "titulo null": (b'{"descricao": "a", "titulo": null}', 422, "titulo"),
    "titulo number": (b'{"descricao": "a", "titulo": 7}', 422, "titulo"),
    "titulo too long": (json.dumps({"descricao": "a", "titulo": "a" * 501}).encode(), 422, "titulo"),
    "too large": (b" " * (256 * 1024 + 1), 413, None),
}


@pytest.mark.parametrize("query", ["", "?detalhes=1"])
@pytest.mark.parametrize(("body", "status", "campo"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_bad_body(client: FlaskClient, body: bytes, status: int, campo: str | None, query: str) -> None:
    response = post(client, body, query)

    assert_problem(response.status_code, response.headers, response.get_json(), status, campo)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_another_content_type(client: FlaskClient, content_type: str) -> None:
    response = post(client, {"descricao": "a"}, content_type=content_type)

    assert_problem(response.status_code, response.headers, response.get_json(), 415)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_another_method(client: FlaskClient, method: str) -> None:
    response = client.open("/predizer_categoria", method=method)

    assert response.headers["Allow"] == "POST"
    if method == "HEAD":
        assert response.status_code == 405
    else:
        assert_problem(response.status_code, response.headers, response.get_json(), 405)


@pytest.mark.parametrize("path", ["/modelo", "/health"])
def test_another_method_than_get(client: FlaskClient, path: str) -> None:
    response = client.post(path)

    assert_problem(response.status_code, response.headers, response.get_json(), 405)
    assert {each.strip() for each in response.headers["Allow"].split(",")} == {"GET", "HEAD"}


@pytest.mark.parametrize("path", ["/", "/nada", "/predizer_categoria/", "//health", "/%00", "/static/app.py"])
def test_unknown_path(client: FlaskClient, path: str) -> None:
    response = client.get(path)

    assert_problem(response.status_code, response.headers, response.get_json(), 404)


@pytest.mark.parametrize("given", ["abc-123_X.y", "a" * 128])
@pytest.mark.parametrize("path", ["/health", "/nada"])
def test_sane_request_id_is_kept(client: FlaskClient, given: str, path: str) -> None:
    assert client.get(path, headers={"X-Request-ID": given}).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "a;b", '"', "é", "a,b"])
def test_other_request_id_is_replaced(client: FlaskClient, given: str) -> None:
    ids = {client.get("/health", headers={"X-Request-ID": given}).headers["X-Request-ID"] for _ in range(2)}

    assert len(ids) == 2
    assert given not in ids


def test_health(client: FlaskClient) -> None:
    assert client.get("/health").status_code == 200


def test_card_of_a_model_without_one(client: FlaskClient) -> None:
    card = client.get("/modelo").get_json()

    assert list(card) == ["categorias", "sha256", "sklearn", "treinado_em", "dados", "qualidade"]
    assert card["categorias"] == ["brinquedo", "livro", "maquiagem"]
    assert len(card["sha256"]) == 64
    assert [card[key] for key in ("treinado_em", "dados", "qualidade")] == [None, None, None]


def test_card_and_threshold_of_a_model_with_one(tiny_model: Path, tmp_path: Path) -> None:
    content = pickle.loads(tiny_model.read_bytes())
    content["meta"] = {"treinado_em": "2026-01-01", "dados": [], "qualidade": {"acuracia": 1}, "limiar_incerto": 1}
    path = tmp_path / "model.sav"
    path.write_bytes(pickle.dumps(content))
    client = client_of(create_app(path))

    card = client.get("/modelo").get_json()

    assert [card[key] for key in ("treinado_em", "dados", "qualidade")] == ["2026-01-01", [], {"acuracia": 1}]
    assert post(client, {"descricao": "boneca de pano"}, "?detalhes=1").get_json()["incerto"] is True


@pytest.mark.parametrize("waited", [1.6, 60])
@pytest.mark.parametrize("query", ["", "?detalhes=1"])
def test_request_that_waited_too_long_is_refused_and_not_worked_on(
    client: FlaskClient, query: str, waited: float
) -> None:
    fresh, late = (
        post(client, {"descricao": "boneca"}, query, **{"X-Queued-At": f"{time.time() - seconds:.3f}"})
        for seconds in (0, waited)
    )

    assert fresh.status_code == 200
    assert_problem(late.status_code, late.headers, late.get_json(), 503)


@pytest.mark.parametrize("claim", ["", "1", "yesterday", "nan", "-inf", "1e1", "9" * 400 + ".000"])
def test_claim_of_a_wait_that_nginx_would_not_make_is_ignored(client: FlaskClient, claim: str) -> None:
    assert post(client, {"descricao": "boneca"}, **{"X-Queued-At": claim}).status_code == 200


class Strange(Exception):
    """Of no family that one could list."""


@pytest.mark.parametrize(
    "kind", [BufferError, ImportError, MemoryError, OSError, RecursionError, StopIteration, Strange, ValueError]
)
@pytest.mark.parametrize("query", ["", "?detalhes=1"])
def test_fault_of_ours_is_a_problem_and_its_log_holds_no_text(
    kind: type[Exception],
    query: str,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(self: object, text: str) -> str:
        raise kind(f"cannot read {text}")

    app = create_app(tiny_model)
    monkeypatch.setattr("classifier.Classifier.predict_with_doubt", fail)
    monkeypatch.setattr("classifier.Classifier.explain", fail)
    response = post(client_of(app), {"descricao": "segredo"}, query, **{"X-Request-ID": "abc"})

    assert_problem(response.status_code, response.headers, response.get_json(), 500)
    logged = capsys.readouterr().err
    assert json.loads(logged).items() >= {"request_id": "abc", "error": kind.__name__}.items()
    assert "segredo" not in logged


@pytest.mark.parametrize(
    ("categoria", "shown"),
    [
        ("decoração", "decoração"),
        ("игрушки 🧸", "игрушки 🧸"),
        ("a\r\nSet-Cookie: b", "a??Set-Cookie: b"),
        ("\x00\x7f\ud83d", "???"),
        ("ã" * 10_000, "ã" * 200),
        (7, "7"),
    ],
)
def test_category_that_goes_to_the_log_fits_a_header(categoria: Any, shown: str) -> None:
    name, value = log_header(categoria, None)

    assert name == "X-Log"
    assert value.encode("latin-1").decode() == f"null {shown}"


@pytest.mark.parametrize("query", ["", "?detalhes=1"])
@pytest.mark.parametrize(("text", "incerto"), [("boneca de pano", "false"), ("zzz", "true")])
def test_answer_tells_the_log_what_it_says(client: FlaskClient, text: str, incerto: str, query: str) -> None:
    response = post(client, {"descricao": text}, query)

    assert response.headers["X-Log"] == f"{incerto} {response.get_json()['categoria']}"
