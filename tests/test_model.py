"""The shipped model.sav: what it must reach on what it has never seen, and what its card says."""

from __future__ import annotations

import pytest

from classifier import Classifier
from tests.conftest import ROOT
from training.data import LISTINGS_TEST, read_listings
from training.noise import KINDS, noise
from training.train import PHRASES

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def shipped() -> Classifier:
    return Classifier(ROOT / "model.sav")


def test_size() -> None:
    assert (ROOT / "model.sav").stat().st_size <= 25 * MEGABYTE


@pytest.mark.parametrize(("text", "category"), PHRASES.items(), ids=PHRASES)
def test_phrases_of_the_book(shipped: Classifier, text: str, category: str) -> None:
    assert shipped.predict(text) == category


def test_listings_and_their_uncertainty(shipped: Classifier) -> None:
    rows = read_listings(LISTINGS_TEST)
    answers = [shipped.explain(f"{row.titulo} {row.descricao}".strip()) for row in rows]

    right = [answer["categoria"] == row.categoria for answer, row in zip(answers, rows, strict=True)]
    sure = [good for good, answer in zip(right, answers, strict=True) if not answer["incerto"]]
    assert sum(right) / len(right) >= 0.93
    assert sum(sure) / len(sure) >= 0.97
    assert 1 - len(sure) / len(right) <= 0.15


def test_text_without_a_real_word_is_uncertain(shipped: Classifier) -> None:
    texts = [text for kind in KINDS for text in noise(kind, 40, seed=3)]

    assert sum(shipped.explain(text)["incerto"] is True for text in texts) / len(texts) >= 0.95


def test_card(shipped: Classifier) -> None:
    card = shipped.card()

    assert len(card["categorias"]) == 28
    assert {"CC BY-NC-SA 4.0"} < {source["licenca"] for source in card["dados"]}
    quality = card["qualidade"]
    assert quality["recibos"]["acuracia"] >= 0.945
    assert quality["recibos"]["f1_macro"] >= 0.83
    assert quality["livro"]["acuracia"] >= 0.965
    assert quality["anuncios"]["acuracia"] >= 0.93
    assert quality["anuncios_longos"]["acuracia"] >= 0.6  # .10 before such texts trained
    assert quality["frases_certas"] == len(PHRASES)


@pytest.mark.parametrize("length", [1, 100])
def test_long_text_is_no_more_sure_of_nonsense(shipped: Classifier, length: int) -> None:
    assert shipped.explain("qwpoz xkjh vbnm 123 "[:20] * (length // 20 + 1))["incerto"] is True
