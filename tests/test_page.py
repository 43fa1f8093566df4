"""The page, in a real headless Chromium: against the real server, but for what it cannot be made to do at will."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.conftest import Server

API = "**/api/predizer_categoria*"
SURE = {
    "categoria": "livro",
    "confianca": 0.914,
    "incerto": False,
    "alternativas": [{"categoria": "game", "confianca": 0.05}],
    "palavras": [
        {"palavra": "anéis", "peso": 2.1},
        {"palavra": "hobbit", "peso": 1.5},
        {"palavra": "de", "peso": -0.2},
    ],
}
UNSURE = {
    "categoria": "frios e laticínios",
    "confianca": 0.31,
    "incerto": True,
    "alternativas": [{"categoria": "brinquedo", "confianca": 0.2}, {"categoria": "<b>game</b>", "confianca": 0.1}],
    "palavras": [],
}


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The form, as a seller finds it."""
    page = browser.new_page()
    page.goto(f"{server.url}/cadastro.html")
    yield page
    page.close()


@pytest.fixture
def questions(page: Page) -> list[Any]:
    """The bodies of all that the page asks the API from now on."""
    bodies: list[Any] = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.method == "POST" else None)
    return bodies


@pytest.fixture
def next_question(page: Page) -> Callable[[], Route]:
    """Wait for what the page asks the API next, which stays without an answer until the test gives one."""
    routes: list[Route] = []
    page.route(API, lambda route: routes.append(route))

    def wait() -> Route:
        deadline = time.monotonic() + 10
        while not routes and time.monotonic() < deadline:
            page.wait_for_timeout(10)  # Playwright hands routes over only while it is called
        return routes.pop(0)

    return wait


# Filling in


def test_leaving_the_description_fills_in_the_category_and_says_why(page: Page) -> None:
    page.fill("#titulo", "Boneca de pano")
    page.fill("#descricao", "feita à mão, para crianças")

    page.press("#descricao", "Tab")

    expect(page.locator("#categoria")).to_have_value("brinquedo")
    expect(page.locator("#estado")).to_have_text(
        re.compile(r"Sugerida pelas? palavras?: .*boneca.* \(\d\d% de confiança\)")
    )


def test_category_that_comes_after_its_field_was_entered_is_replaced_by_typing(page: Page) -> None:
    page.fill("#descricao", "feita à mão, para crianças: boneca")
    page.press("#descricao", "Tab")
    expect(page.locator("#categoria")).to_be_focused()
    expect(page.locator("#categoria")).to_have_value("brinquedo")

    page.keyboard.type("jogo")

    expect(page.locator("#categoria")).to_have_value("jogo")


def test_pausing_in_the_description_is_enough(page: Page) -> None:
    page.fill("#titulo", "Boneca de pano")

    page.locator("#descricao").press_sequentially("feita à mão, para crianças")

    expect(page.locator("#categoria")).to_have_value("brinquedo")
    expect(page.locator("#descricao")).to_be_focused()


def test_nothing_is_asked_before_the_pause_is_over(page: Page, questions: list[Any]) -> None:
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.locator("#descricao").press_sequentially("boneca")

    page.clock.run_for(500)
    assert questions == []
    with page.expect_request(API):
        page.clock.run_for(200)

    assert questions == [{"descricao": "boneca"}]


def test_a_title_alone_is_asked_as_the_description(page: Page, questions: list[Any]) -> None:
    page.fill("#titulo", "Boneca de pano para crianças")

    page.press("#titulo", "Tab")

    expect(page.locator("#categoria")).to_have_value("brinquedo")
    assert questions == [{"descricao": "Boneca de pano para crianças"}]


def test_the_same_text_is_asked_once(page: Page, questions: list[Any]) -> None:
    page.route(API, lambda route: route.fulfill(json=SURE))
    page.fill("#titulo", "O senhor dos anéis")
    page.fill("#descricao", "capa dura")
    page.press("#descricao", "Tab")
    expect(page.locator("#categoria")).to_have_value("livro")
    questions.clear()

    page.focus("#titulo")
    page.fill("#titulo", "O senhor dos anéis ")
    page.focus("#descricao")
    page.click("#enviar")

    expect(page.locator("#resultado")).to_contain_text("Nada foi gravado")
    assert questions == []


def test_an_edit_refreshes_the_category(page: Page) -> None:
    page.fill("#descricao", "boneca de pano para crianças")
    expect(page.locator("#categoria")).to_have_value("brinquedo")

    page.fill("#descricao", "batom vermelho matte, maquiagem")

    expect(page.locator("#categoria")).to_have_value("maquiagem")


def test_a_category_fades_with_its_text(page: Page) -> None:
    page.fill("#descricao", "boneca de pano para crianças")
    expect(page.locator("#categoria")).to_have_value("brinquedo")

    page.fill("#descricao", "")

    expect(page.locator("#categoria")).to_have_value("")
    expect(page.locator("#estado")).to_have_text("")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (SURE, "Categoria livro. Sugerida pelas palavras: anéis, hobbit (91% de confiança)"),
        (
            SURE | {"confianca": 1, "palavras": SURE["palavras"][:1]},  # type: ignore[index]
            "Categoria livro. Sugerida pela palavra: anéis (99% de confiança)",
        ),
        (
            SURE | {"palavras": [{"palavra": word, "peso": 1} for word in ["de", "4,5", "panela", "para", "dona"]]},
            "Categoria livro. Sugerida pelas palavras: panela, dona (91% de confiança)",
        ),
        (
            SURE | {"confianca": None, "incerto": None, "alternativas": None, "palavras": None},
            "Categoria livro. Sugerida pelo texto",
        ),
    ],
    ids=["words", "one word, never 100%", "words that are no reason", "model that says nothing"],
)
def test_the_reason_is_what_the_model_says(page: Page, answer: dict[str, Any], text: str) -> None:
    page.route(API, lambda route: route.fulfill(json=answer))

    page.fill("#descricao", "hobbit")

    expect(page.locator("#estado")).to_have_text(text)
    expect(page.locator("#categoria")).to_have_value("livro")


def test_the_categories_of_the_model_are_offered_in_the_field(page: Page) -> None:
    expect(page.locator("#categorias option[value=brinquedo]")).to_be_attached()
    expect(page.locator("#categoria")).to_have_attribute("list", "categorias")


def test_categories_of_other_types_are_shown_as_they_are(page: Page) -> None:
    page.route(API, lambda route: route.fulfill(json=UNSURE | {"categoria": 0, "alternativas": [{"categoria": True}]}))
    page.fill("#descricao", "hobbit")
    expect(page.locator("#sugestoes button")).to_have_text(["0", "true"])

    page.click("#sugestoes button >> nth=0")

    expect(page.locator("#categoria")).to_have_value("0")


# The seller's own category


def test_a_typed_category_is_never_overwritten(page: Page, questions: list[Any]) -> None:
    page.clock.install()
    page.fill("#categoria", "artesanato")

    page.fill("#descricao", "boneca de pano para crianças")
    page.press("#descricao", "Tab")
    page.clock.run_for(60_000)

    expect(page.locator("#categoria")).to_have_value("artesanato")
    assert questions == []


def test_a_category_typed_while_the_page_asks_is_kept(page: Page, next_question: Callable[[], Route]) -> None:
    page.fill("#descricao", "hobbit")
    question = next_question()
    expect(page.locator("#categoria")).to_have_attribute("aria-busy", "true")

    page.fill("#categoria", "artesanato")
    question.fulfill(json=SURE)

    expect(page.locator("#categoria")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#estado")).to_have_text("")
    expect(page.locator("#categoria")).to_have_value("artesanato")


def test_an_emptied_category_is_filled_in_again(page: Page) -> None:
    page.fill("#categoria", "artesanato")
    page.fill("#descricao", "boneca de pano para crianças")

    page.fill("#categoria", "")
    expect(page.locator("#categoria")).to_have_value("")
    page.press("#categoria", "Tab")

    expect(page.locator("#categoria")).to_have_value("brinquedo")


# Unsure


def test_when_unsure_the_alternatives_are_buttons_and_a_click_chooses(page: Page, questions: list[Any]) -> None:
    page.route(API, lambda route: route.fulfill(json=UNSURE))
    page.fill("#descricao", "uma coisa")
    group = page.get_by_role("group", name="Não tenho certeza")
    expect(group.get_by_role("button")).to_have_text(["frios e laticínios", "brinquedo", "<b>game</b>"])
    expect(page.locator("#categoria")).to_have_value("")
    questions.clear()

    group.get_by_role("button", name="brinquedo").click()
    page.fill("#titulo", "Outra coisa")
    page.press("#titulo", "Tab")
    page.click("#enviar")

    expect(page.locator("#resultado")).to_contain_text("Nada foi gravado")
    expect(page.locator("#categoria")).to_have_value("brinquedo")
    expect(group).to_be_hidden()
    assert questions == []


def test_a_press_on_a_suggestion_counts_even_straight_from_an_edit(page: Page, questions: list[Any]) -> None:
    page.route(API, lambda route: route.fulfill(json=UNSURE))
    page.fill("#descricao", "uma coisa")
    expect(page.get_by_role("button", name="brinquedo")).to_be_visible()
    questions.clear()
    page.clock.install(time=0)
    page.clock.pause_at(1000)

    page.press("#descricao", "End")
    page.keyboard.type("!")
    page.get_by_role("button", name="brinquedo").click()

    expect(page.locator("#categoria")).to_have_value("brinquedo")
    assert questions == []


@pytest.mark.parametrize(("first", "second"), [(UNSURE, SURE), (SURE, UNSURE)], ids=["vanish", "appear"])
def test_a_press_on_enviar_counts_though_suggestions_would_move_it(
    page: Page, first: dict[str, Any], second: dict[str, Any]
) -> None:
    page.set_viewport_size({"width": 320, "height": 900})
    page.route(API, lambda route: route.fulfill(json=second if "lente" in str(route.request.post_data) else first))
    page.fill("#titulo", "Óculos de sol")
    page.press("#titulo", "Tab")
    expect(page.locator("#estado")).not_to_be_empty()
    page.fill("#descricao", "lente polarizada")

    page.hover("#enviar")
    with page.expect_response(API):
        page.mouse.down()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.mouse.up()

    if second is SURE:
        expect(page.locator("#resultado")).to_contain_text("Nada foi gravado")
    else:
        expect(page.locator("#categoria-ajuda")).to_have_text("Escolha ou escreva a categoria.")


def test_a_press_whose_end_is_never_seen_holds_no_answer_back(page: Page) -> None:
    page.hover("h1")
    page.mouse.down()  # as where a context menu takes the release

    page.fill("#descricao", "boneca de pano para crianças")

    expect(page.locator("#categoria")).to_have_value("brinquedo")


def test_a_choice_moves_the_focus_to_what_comes_next(page: Page) -> None:
    page.route(API, lambda route: route.fulfill(json=UNSURE))
    page.fill("#descricao", "uma coisa")

    page.get_by_role("button", name="brinquedo").click()

    expect(page.get_by_role("button", name="Enviar")).to_be_focused()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (UNSURE, "Não tenho certeza"),
        (UNSURE | {"alternativas": None}, "Escreva a categoria"),
        (UNSURE | {"alternativas": []}, "Escreva a categoria"),
    ],
    ids=["unsure", "nothing known", "no alternative"],
)
def test_an_unsure_answer_takes_an_earlier_one_back(page: Page, answer: dict[str, Any], text: str) -> None:
    page.fill("#descricao", "boneca de pano para crianças")
    expect(page.locator("#categoria")).to_have_value("brinquedo")
    page.route(API, lambda route: route.fulfill(json=answer))

    page.fill("#descricao", "uma coisa")

    expect(page.locator("#estado")).to_contain_text(text)
    expect(page.locator("#categoria")).to_have_value("")


def test_keyboard_noise_is_not_given_a_category(page: Page) -> None:
    page.fill("#descricao", "qwrtplkjhgf zxcvb 99887766")

    expect(page.locator("#estado")).to_have_text(re.compile("Não tenho certeza|Não reconheci"))
    expect(page.locator("#categoria")).to_have_value("")


# Slow and late


def test_while_it_asks_the_page_shows_so(page: Page, next_question: Callable[[], Route]) -> None:
    page.fill("#descricao", "hobbit")
    question = next_question()

    expect(page.locator("#categoria")).to_have_attribute("aria-busy", "true")
    expect(page.get_by_role("status").filter(has_text="Procurando a categoria")).to_be_visible()

    question.fulfill(json=SURE)
    expect(page.locator("#categoria")).to_have_value("livro")
    expect(page.locator("#categoria")).to_have_attribute("aria-busy", "false")
    expect(page.get_by_text("Procurando a categoria")).not_to_be_attached()


def test_an_answer_that_comes_late_for_an_older_text_is_dropped(page: Page, next_question: Callable[[], Route]) -> None:
    page.fill("#descricao", "boneca")
    older = next_question()
    page.fill("#descricao", "hobbit")
    next_question().fulfill(json=SURE)
    expect(page.locator("#categoria")).to_have_value("livro")

    older.fulfill(json=SURE | {"categoria": "brinquedo"})
    page.evaluate("fetch('/favicon.svg')")  # a round trip that an answer on its way would have overtaken

    expect(page.locator("#categoria")).to_have_value("livro")


def test_going_straight_to_enviar_waits_for_the_category(page: Page, next_question: Callable[[], Route]) -> None:
    page.fill("#titulo", "O senhor dos anéis")
    page.fill("#descricao", "hobbit")
    assert next_question().request.post_data_json == {"descricao": "O senhor dos anéis"}

    page.press("#titulo", "Enter")
    next_question().fulfill(json=SURE)

    expect(page.locator("#resultado")).to_contain_text("Nada foi gravado")
    expect(page.locator("#categoria")).to_have_value("livro")


# The API fails


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"status": 413, "body": "<h1>Too large</h1>", "content_type": "text/html"}, "grande demais"),
        (
            {"status": 422, "json": {"detail": "Falta o til."}, "content_type": "application/problem+json"},
            "Falta o til.",
        ),
        ({"status": 429, "body": ""}, "pedidos demais"),
        ({"status": 500, "body": "<h1>Oops</h1>", "content_type": "text/html"}, "um erro (500)"),
        ({"status": 502, "json": {"detail": "de outro"}}, "um erro (502)"),
        (
            {"status": 503, "json": {"detail": "Tudo ocupado."}, "content_type": "application/problem+json"},
            "Tudo ocupado.",
        ),
        ({"status": 200, "body": "<h1>Wi-Fi</h1>", "content_type": "text/html"}, "não entende"),
        ({"status": 200, "json": []}, "não entende"),
    ],
)
def test_an_error_is_told_in_plain_words(page: Page, answer: dict[str, Any], text: str) -> None:
    page.route(API, lambda route: route.fulfill(**answer))

    page.fill("#descricao", "hobbit")

    expect(page.locator("#estado")).to_contain_text(text)
    expect(page.locator("#estado")).to_contain_text("Você pode escolher a categoria.")


def test_when_the_api_is_down_the_seller_can_go_on(page: Page) -> None:
    page.route(API, lambda route: route.abort())
    page.fill("#titulo", "O senhor dos anéis")
    page.fill("#descricao", "hobbit")
    expect(page.locator("#estado")).to_contain_text("Não foi possível falar com o servidor")

    page.fill("#categoria", "livro")
    page.click("#enviar")

    expect(page.locator("#resultado")).to_contain_text("Nada foi gravado")


def test_a_failure_keeps_an_earlier_category_and_asks_to_check_it(page: Page) -> None:
    page.fill("#descricao", "boneca de pano para crianças")
    expect(page.locator("#categoria")).to_have_value("brinquedo")
    page.route(API, lambda route: route.abort())

    page.fill("#descricao", "boneca de pano para crianças pequenas")

    expect(page.locator("#estado")).to_contain_text("Confira a categoria.")
    expect(page.locator("#categoria")).to_have_value("brinquedo")


def test_the_next_edit_asks_again_even_if_it_is_undone(page: Page) -> None:
    page.route(API, lambda route: route.abort())
    page.fill("#descricao", "boneca de pano para crianças")
    expect(page.locator("#estado")).to_contain_text("Não foi possível")
    page.unroute(API)

    page.locator("#descricao").press_sequentially("!")
    page.press("#descricao", "Backspace")

    expect(page.locator("#categoria")).to_have_value("brinquedo")


def test_a_server_that_never_answers_is_given_up(page: Page, next_question: Callable[[], Route]) -> None:
    page.clock.install()
    page.fill("#descricao", "hobbit")
    next_question()

    page.clock.run_for(10_000)

    expect(page.locator("#estado")).to_contain_text("demorou demais")
    expect(page.locator("#categoria")).to_have_attribute("aria-busy", "false")


@pytest.mark.parametrize(("retry_after", "seconds"), [("2", 2), ("3600", 30)])
def test_a_busy_server_is_asked_once_more(
    page: Page, questions: list[Any], next_question: Callable[[], Route], retry_after: str, seconds: int
) -> None:
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.fill("#descricao", "hobbit")
    page.clock.run_for(700)
    next_question().fulfill(status=503, headers={"Retry-After": retry_after})
    expect(page.locator("#estado")).to_contain_text(f"Nova tentativa em {seconds} s.")
    page.press("#descricao", "Tab")
    page.clock.run_for(seconds * 1000 - 100)
    assert len(questions) == 1

    page.clock.run_for(200)
    next_question().fulfill(status=503, headers={"Retry-After": retry_after})

    expect(page.locator("#estado")).not_to_contain_text("Nova tentativa")
    page.clock.run_for(120_000)
    assert len(questions) == 2


# Enviar


def test_enviar_names_what_is_missing_and_goes_to_the_first(page: Page) -> None:
    page.fill("#titulo", "O senhor dos anéis")
    page.route(API, lambda route: route.fulfill(json=UNSURE))

    page.click("#enviar")

    expect(page.locator("#descricao")).to_be_focused()
    expect(page.locator("#titulo")).to_have_attribute("aria-invalid", "false")
    for field, text in {"#descricao": "Escreva a descrição.", "#categoria": "Escolha ou escreva a categoria."}.items():
        expect(page.locator(field)).to_have_attribute("aria-invalid", "true")
        expect(page.locator(field)).to_have_accessible_description(re.compile(text))
    expect(page.locator("#resultado")).to_have_text("")

    page.fill("#descricao", "hobbit")
    expect(page.locator("#descricao")).to_have_attribute("aria-invalid", "false")


def test_enviar_says_that_nothing_is_stored_and_keeps_the_text(page: Page) -> None:
    page.fill("#titulo", "Boneca de pano")
    page.fill("#descricao", "feita à mão, para crianças")
    url = page.url

    page.click("#enviar")

    expect(page.get_by_role("status").filter(has_text="Nada foi gravado:")).to_be_visible()
    assert page.url == url
    assert [page.input_value(f"#{field}") for field in ("titulo", "descricao", "categoria")] == [
        "Boneca de pano",
        "feita à mão, para crianças",
        "brinquedo",
    ]
    page.fill("#titulo", "Boneca")
    expect(page.locator("#resultado")).to_have_text("")


@pytest.mark.parametrize(("field", "limit", "written"), [("titulo", 500, "500"), ("descricao", 20_000, "20.000")])
def test_a_text_that_is_too_long_is_kept_and_named(
    page: Page, questions: list[Any], field: str, limit: int, written: str
) -> None:
    longest = "🧸" * (limit - 1) + "e\u0301"  # code points of the NFC form are what counts
    page.fill(f"#{field}", longest)
    expect(page.locator(f"#{field}-ajuda")).to_have_text(f"{written} de {written} caracteres")
    expect(page.locator(f"#{field}")).to_have_attribute("aria-invalid", "false")
    questions.clear()

    page.fill(f"#{field}", longest + "!")

    expect(page.locator(f"#{field}-ajuda")).to_contain_text("Longo demais")
    expect(page.locator("#estado")).to_contain_text("longo demais para sugerir")
    expect(page.locator(f"#{field}")).to_have_value(longest + "!")
    assert questions == []


# For everybody


def test_every_control_has_a_role_and_a_name(page: Page) -> None:
    page.route(API, lambda route: route.fulfill(json=UNSURE))
    page.fill("#descricao", "uma coisa")

    expect(page.get_by_role("button", name="brinquedo")).to_be_visible()
    expect(page.locator("body")).to_match_aria_snapshot("""
      - banner:
        - heading "Cadastro de produto" [level=1]
      - main:
        - form "Produto":
          - paragraph
          - text: Título
          - textbox "Título"
          - text: Descrição
          - textbox "Descrição": uma coisa
          - text: Categoria
          - combobox "Categoria"
          - status: "Não tenho certeza. Escolha uma destas ou escreva outra:"
          - 'group "Não tenho certeza. Escolha uma destas ou escreva outra:"':
            - button "frios e laticínios"
            - button "brinquedo"
            - button "<b>game</b>"
          - button "Enviar"
    """)


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    page.route(API, lambda route: route.fulfill(json=UNSURE))
    keyboard = page.keyboard

    keyboard.press("Tab")
    expect(page.locator("#titulo")).to_be_focused()
    keyboard.type("Uma coisa")
    keyboard.press("Tab")
    expect(page.locator("#descricao")).to_be_focused()
    keyboard.type("boa")
    keyboard.press("Tab")
    expect(page.locator("#categoria")).to_be_focused()
    expect(page.locator("#categoria")).to_have_attribute("aria-busy", "false")  # or the title's buttons may still go
    expect(page.get_by_role("button", name="brinquedo")).to_be_visible()
    keyboard.press("Tab")
    keyboard.press("Tab")
    expect(page.get_by_role("button", name="brinquedo")).to_be_focused()
    keyboard.press("Enter")
    expect(page.locator("#categoria")).to_have_value("brinquedo")
    expect(page.locator("#enviar")).to_be_focused()
    for _ in ("#categoria", "#descricao", "#titulo"):
        keyboard.press("Shift+Tab")
    expect(page.locator("#titulo")).to_be_focused()
    keyboard.press("Enter")

    expect(page.locator("#resultado")).to_contain_text("Nada foi gravado")


def test_at_320_pixels_nothing_is_cut_and_every_target_is_big_enough(page: Page) -> None:
    page.set_viewport_size({"width": 320, "height": 256})  # also what 400 % zoom leaves of a 1280 × 1024 screen
    long_name = "equipamentos para restaurantes, padarias e lanchonetes"
    page.route(API, lambda route: route.fulfill(json=UNSURE | {"categoria": long_name}))
    page.fill("#descricao", "palavracompridademais" * 10)
    expect(page.get_by_role("button", name=long_name)).to_be_visible()
    page.click("#enviar")
    expect(page.locator("#titulo")).to_be_focused()

    sizes = page.locator("body *:not(option, datalist)").evaluate_all(
        """elements => elements.filter(element => element.checkVisibility()).map(element => {
             const { left, right, height } = element.getBoundingClientRect();
             const isCut = element.clientWidth > 0 && element.scrollWidth > element.clientWidth;
             const isTarget = element.matches("input, textarea, button");
             return { element: element.outerHTML.slice(0, 80), left, right, height, isCut, isTarget };
           })"""
    )

    assert page.evaluate("document.documentElement.scrollWidth") == 320
    assert [size for size in sizes if size["left"] < 0 or size["right"] > 320 or size["isCut"]] == []
    assert [size for size in sizes if size["isTarget"] and size["height"] < 48] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_schemes(page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.route(API, lambda route: route.fulfill(json=UNSURE))
    page.fill("#titulo", "Uma coisa")
    page.fill("#descricao", "boa")
    page.click("#enviar")
    expect(page.locator("#categoria-ajuda")).to_have_text("Escolha ou escreva a categoria.")
    unsure = text_colours(page)
    page.get_by_role("button", name="brinquedo").click()
    page.click("#enviar")
    expect(page.locator("#resultado")).to_contain_text("Nada foi gravado")
    page.route(API, lambda route: route.abort())
    page.fill("#categoria", "")
    page.fill("#descricao", "outra")
    expect(page.locator("#estado")).to_contain_text("Não foi possível")
    failed = text_colours(page)
    page.fill("#categoria", "livro")
    page.click("#enviar")
    expect(page.locator("#resultado")).to_contain_text("Nada foi gravado")

    colours = unsure + failed + text_colours(page)

    is_dark = luminance(page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")) < 0.2
    assert is_dark == (scheme == "dark")
    assert {"Enviar", "Título", "brinquedo"} < {text for text, _, _ in colours}
    assert [entry for entry in colours if contrast(entry[1], entry[2]) < 4.5] == []


def text_colours(page: Page) -> list[tuple[str, str, str]]:
    """(text, its colour, the colour behind it) of every element with a text of its own."""
    entries: list[tuple[str, str, str]] = page.locator("body *").evaluate_all(
        """elements => elements
             .map(element => [element, element.value || [...element.childNodes]
               .filter(node => node.nodeType === Node.TEXT_NODE).map(node => node.data).join("").trim()])
             .filter(([element, text]) => text && element.checkVisibility())
             .map(([element, text]) => {
               let behind = element;
               while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
               return [text, getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
             })"""
    )
    return entries


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2, 1 to 21."""
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2.2, 0 to 1, of an opaque `rgb(r, g, b)`."""
    match = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour)
    assert match, colour
    shares = [int(channel) / 255 for channel in match.groups()]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# What the browser sees


def test_nothing_comes_from_elsewhere_and_the_console_stays_empty(browser: Browser, server: Server) -> None:
    page = browser.new_page()
    urls: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))

    response = page.goto(f"{server.url}/")
    page.fill("#titulo", "Boneca de pano")
    page.fill("#descricao", "feita à mão, para crianças")
    page.click("#enviar")
    expect(page.locator("#resultado")).to_contain_text("Nada foi gravado")
    icon = page.request.get(f"{server.url}/favicon.svg")
    page.close()

    assert response is not None
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert "unsafe-inline" not in response.headers["content-security-policy"]
    assert icon.headers["content-type"] == "image/svg+xml"
    assert [url for url in urls if not url.startswith(f"{server.url}/")] == []
    assert complaints == []


def test_a_missing_page_is_a_page(browser: Browser, server: Server) -> None:
    page = browser.new_page()

    response = page.goto(f"{server.url}/nao/existe")

    assert response is not None
    assert response.status == 404
    expect(page.get_by_role("heading", name="Página não encontrada")).to_be_visible()
    assert page.locator("body").evaluate("body => getComputedStyle(body).marginTop") == "0px"  # its stylesheet is there
    page.get_by_role("link", name="cadastro").click()
    expect(page.locator("#titulo")).to_be_visible()
    page.close()


def test_without_javascript_the_page_says_so(browser: Browser, server: Server) -> None:
    page = browser.new_page(java_script_enabled=False)

    page.goto(f"{server.url}/cadastro.html")

    expect(page.locator("noscript p")).to_contain_text("precisa de JavaScript")
    expect(page.locator("noscript p")).to_be_visible()
    page.close()


def test_without_its_script_the_form_loses_nothing(page: Page) -> None:
    page.route("**/cadastro.js", lambda route: route.abort())
    page.reload()
    url = page.url
    page.fill("#titulo", "Boneca de pano")

    page.press("#titulo", "Enter")

    expect(page.locator("#titulo")).to_have_value("Boneca de pano")
    assert page.url == url
