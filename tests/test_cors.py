"""The page on another origin than its API: what nginx and the app say to whom, and a real browser that heeds it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app import create_app
from tests.conftest import ROOT, Answer, Server, free_port, running
from tests.problems import assert_problem
from tests.test_server import workers

SHOP, OTHER = "https://shop.example", "http://127.0.0.1:4321"
LONG = f"https://{'loja.' * 40}example"
STRANGERS = ["https://evil.example", "https://shop.example.evil.example", "https://shop.example:444", "null", "*"]
READABLE = "Allow, Retry-After, X-Request-ID"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose answers three origins may read, and of which one request a second is soon too many."""
    origins = ",".join([SHOP, OTHER, LONG])
    with running(tmp_path_factory.mktemp("cors"), CORS_ORIGINS=origins, RATE_LIMIT="1", WEB_CONCURRENCY="1") as server:
        yield server


def cors_headers(answer: Answer) -> dict[str, str]:
    found = [(name, value) for name, value in answer.headers.items() if name.startswith("Access-Control-")]
    assert len(found) == len(dict(found))  # none twice
    return dict(found)


def preflight(server: Server, origin: str, method: str = "POST", headers: str = "content-type") -> Answer:
    return server.request(
        "OPTIONS",
        "/api/predizer_categoria",
        Origin=origin,
        Access_Control_Request_Method=method,
        Access_Control_Request_Headers=headers,
    )


@pytest.mark.parametrize("origin", [SHOP, OTHER, LONG])
def test_answers_may_be_read_by_the_origins_named(shared: Server, origin: str) -> None:
    allowed = {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": READABLE}
    model = shared.request("GET", "/api/modelo", Origin=origin)
    asked = preflight(shared, origin)

    assert (model.status, cors_headers(model)) == (200, allowed)
    assert asked.status == 200
    assert cors_headers(asked) == allowed | {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": "content-type",
        "Access-Control-Max-Age": "7200",
    }


def test_every_error_may_be_read_whoever_makes_it(shared: Server) -> None:
    text = '{"descricao":"boneca"}'
    answers = [shared.predict("boneca", Origin=SHOP) for _ in range(130)][::-1]
    assert answers[0].headers["Retry-After"] == "1"
    assert preflight(shared, SHOP).status == 200  # it is no prediction
    (worker,) = workers(shared, 1)
    os.kill(worker, signal.SIGSTOP)
    answers.append(shared.request("GET", "/api/modelo", Origin=SHOP))
    os.kill(worker, signal.SIGCONT)
    answers.append(shared.request("GET", "/api/nada", Origin=SHOP))
    answers.append(shared.request("PUT", "/api/modelo", text, Origin=SHOP))
    answers.append(shared.request("POST", "/api/modelo", " " * 300_000, Origin=SHOP))

    allowed = {"Access-Control-Allow-Origin": SHOP, "Access-Control-Expose-Headers": READABLE}
    assert [cors_headers(answer) for answer in answers] == [allowed] * len(answers)
    for answer, status in zip([answers[0], *answers[-4:]], [429, 503, 404, 405, 413], strict=True):
        assert_problem(answer.status, answer.headers, answer.json(), status)


@pytest.mark.parametrize("origin", STRANGERS)
def test_nobody_else_may_read(shared: Server, origin: str) -> None:
    for answer in [shared.request("GET", "/api/modelo", Origin=origin), preflight(shared, origin)]:
        assert cors_headers(answer) == {}


def test_only_what_the_api_understands_is_allowed(shared: Server) -> None:
    assert "Access-Control-Allow-Headers" not in preflight(shared, SHOP, headers="x-secret").headers
    assert "Access-Control-Allow-Methods" not in preflight(shared, SHOP, method="DELETE").headers
    assert cors_headers(shared.request("GET", "/api/modelo")) == {}
    assert cors_headers(shared.request("GET", "/cadastro.html", Origin=SHOP)) == {}


def test_without_the_setting_there_is_no_such_header(server: Server) -> None:
    refused = preflight(server, SHOP)

    assert_problem(refused.status, refused.headers, refused.json(), 405)
    assert cors_headers(refused) == cors_headers(server.predict("boneca", Origin=SHOP)) == {}


@pytest.mark.parametrize("hot", [True, False])
@pytest.mark.parametrize(("origin", "allowed"), [(SHOP, SHOP), ("https://evil.example", None), (None, None)])
def test_app_alone_says_the_same(hot: bool, origin: str | None, allowed: str | None, tiny_model: Path) -> None:
    client = create_app(tiny_model, hot, f"{SHOP},{OTHER}").test_client()
    headers = {"Origin": origin} if origin else {}

    bodies = {b'{"descricao":"boneca"}': 200, b"{}": 422, b" " * (256 * 1024 + 1): 413}
    for body, status in bodies.items():
        answer = client.post("/predizer_categoria", data=body, content_type="application/json", headers=headers)
        assert answer.status_code == status
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed
        assert answer.headers.get("Access-Control-Expose-Headers") == (READABLE if allowed else None)


@pytest.mark.parametrize(
    "origins", ["*", "shop.example", "https://shop.example/", "https://shop.example, https://a.example", "https://a b"]
)
def test_origins_that_are_none_are_refused(origins: str) -> None:
    ended = subprocess.run(
        [ROOT / "entrypoint.sh"], env=os.environ | {"CORS_ORIGINS": origins}, capture_output=True, text=True
    )

    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (64, "", 1)


# In the browser


def write_page(folder: Path, api: str) -> None:
    """Put a copy of the page into the folder, whose API is on that origin."""
    shutil.copytree(ROOT / "webclient", folder)
    page = folder / "cadastro.html"
    page.write_text(page.read_text().replace('<meta name="api" content="">', f'<meta name="api" content="{api}">'))


@contextlib.contextmanager
def static_host(folder: Path) -> Iterator[str]:
    """Serve the folder as a host does that knows nothing of the product; yield its origin."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        thread = threading.Thread(target=host.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{host.server_address[1]}"
        finally:
            host.shutdown()
            thread.join()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


def ask(page: Page, text: str) -> None:
    page.fill("#descricao", text)
    page.press("#descricao", "Tab")


def test_page_on_a_static_host_asks_its_api_and_shows_its_errors(page: Page, tmp_path: Path) -> None:
    port = free_port()
    write_page(tmp_path / "page", f"http://127.0.0.1:{port}")
    with (
        static_host(tmp_path / "page") as origin,
        running(tmp_path, PORT=str(port), CORS_ORIGINS=origin, RATE_LIMIT="1", WEB_CONCURRENCY="1") as server,
    ):
        page.goto(f"{origin}/cadastro.html")

        ask(page, "boneca de pano para crianças")
        expect(page.locator("#categoria")).to_have_value("brinquedo")
        expect(page.locator("#categorias option")).not_to_have_count(0)

        for _ in range(120):
            server.predict("boneca")
        ask(page, "carrinho de controle remoto")
        expect(page.locator("#estado")).to_contain_text("Pedidos demais em pouco tempo")
        expect(page.locator("#estado")).to_contain_text("Nova tentativa em 1 s")  # Retry-After may be read

        (worker,) = workers(server, 1)
        os.kill(worker, signal.SIGSTOP)
        ask(page, "livro de receitas da vovó")
        expect(page.locator("#estado")).to_contain_text("ocupado")
        os.kill(worker, signal.SIGCONT)


def test_page_of_another_origin_gets_no_answer(page: Page, tmp_path: Path) -> None:
    port = free_port()
    write_page(tmp_path / "page", f"http://127.0.0.1:{port}")
    with static_host(tmp_path / "page") as origin, running(tmp_path, PORT=str(port), CORS_ORIGINS=SHOP):
        page.goto(f"{origin}/cadastro.html")
        ask(page, "boneca de pano para crianças")

        expect(page.locator("#estado")).to_contain_text("Não foi possível falar com o servidor")
        expect(page.locator("#categoria")).to_have_value("")


def test_page_served_by_nginx_may_reach_the_api_that_it_names_and_no_other(page: Page, tmp_path: Path) -> None:
    page_port, api_port = free_port(), free_port()
    origin, api = f"http://127.0.0.1:{page_port}", f"http://127.0.0.1:{api_port}"
    (tmp_path / "root").mkdir()
    for path in ROOT.iterdir():
        if path.name not in {"webclient", "entrypoint.sh"}:
            (tmp_path / "root" / path.name).symlink_to(path)
    shutil.copy(ROOT / "entrypoint.sh", tmp_path / "root")
    write_page(tmp_path / "root" / "webclient", api)
    (tmp_path / "api").mkdir()
    with (
        running(tmp_path, tmp_path / "root", PORT=str(page_port)),
        running(tmp_path / "api", PORT=str(api_port), CORS_ORIGINS=origin) as server,
    ):
        page.goto(f"{origin}/cadastro.html")
        ask(page, "boneca de pano para crianças")
        expect(page.locator("#categoria")).to_have_value("brinquedo")
        blocked = page.evaluate("fetch('http://127.0.0.1:1/').then(() => 'reached', (error) => error.name)")
        policy = page.evaluate("fetch('/cadastro.html').then((it) => it.headers.get('Content-Security-Policy'))")

    assert server.log().count('"POST"') == 1
    assert blocked == "TypeError"
    assert f"connect-src 'self' {api};" in policy


def test_page_whose_api_is_no_origin_is_refused(tmp_path: Path) -> None:
    write_page(tmp_path / "webclient", "https://api.example; script-src *")
    shutil.copy(ROOT / "entrypoint.sh", tmp_path)

    ended = subprocess.run([tmp_path / "entrypoint.sh"], capture_output=True, text=True)

    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (64, "", 1)
