"""Unit: how the training data is read, split and kept apart from what measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training import model
from training.data import LISTINGS, LISTINGS_TEST, Item, MissingSource, longest_key, read_listings, read_sources
from training.noise import KINDS, noise
from training.report import reliability
from training.split import merge, near_key, split, without_copies

KEYS = """fonte;chave;categoria
produtos.csv;livro;livro
prodclass;PET;pet
taxonomia-google;A > B;b
taxonomia-google;A;a
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a row or two of every source."""
    (tmp_path / "categorias.csv").write_text(KEYS, encoding="utf-8")
    (tmp_path / "produtos.csv").write_text("nome;descricao;categoria\n O Hobbit ;fantasia;livro\n", encoding="utf-8")
    (tmp_path / "taxonomia-google.pt-BR.txt").write_text("# v\n1 - A > B > C\n2 - A > D\n3 - E\n", encoding="utf-8")
    (tmp_path / "retail-br.csv").write_text("nm_item;categoria\nRACAO 1KG;PET\nX;OUTRO\n", encoding="utf-8-sig")
    return tmp_path


def test_sources_are_mapped_and_what_no_key_covers_is_left_out(folder: Path) -> None:
    assert [item[1:] for item in read_sources(folder)] == [
        ("C", "B", "b"),
        ("D", "A", "a"),
        ("O Hobbit", "fantasia", "livro"),
        ("RACAO 1KG", "", "pet"),
    ]


def test_book_can_be_left_out(folder: Path) -> None:
    (folder / "produtos.csv").unlink()

    assert "livro" not in {item.categoria for item in read_sources(folder, book=False)}


@pytest.mark.parametrize("name", ["categorias.csv", "produtos.csv", "taxonomia-google.pt-BR.txt"])
def test_missing_source_is_named_with_where_its_public_copy_is(folder: Path, name: str) -> None:
    (folder / name).unlink()

    with pytest.raises(MissingSource, match=f"{name}; public copy: "):
        read_sources(folder)


@pytest.mark.parametrize(("path", "expected"), [("A > B", "b"), ("A > B > C", "b"), ("A > Bc", "a"), ("E > A", None)])
def test_longest_key_wins(path: str, expected: str | None) -> None:
    assert longest_key(path, {"A": "a", "A > B": "b"}) == expected


@pytest.mark.parametrize("other", ["ração 2kg CÃES", "CAES RACAO", "Ração p/ cães 10 un."])
def test_near_duplicates_have_the_same_key(other: str) -> None:
    assert near_key(other) == near_key("RACAO CAES 1KG")


def test_near_duplicates_are_merged_and_never_on_both_sides() -> None:
    names = [f"q{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(400)]
    items = [Item("prodclass", f"PRODUTO {name.upper()} {n}KG", "", "pet") for n, name in enumerate(names)]
    items += [Item("prodclass", f"{n}g {name} produto", "", "pet") for n, name in enumerate(names)]
    items += [Item("taxonomia-google", f"produto {name}", "", "pet") for name in names[:26]]

    merged = merge(items)
    train, test = split(merged)

    assert len(merged) == 400 + 26
    assert {near_key(item.titulo) for item in train}.isdisjoint(near_key(item.titulo) for item in test)
    assert len(test) == 75  # a fifth of those that no other source has
    assert set(split(list(reversed(merged)))[1]) == set(test)


def test_no_listing_that_trains_is_a_near_copy_of_one_that_measures() -> None:
    train, test = read_listings(LISTINGS), read_listings(LISTINGS_TEST)

    assert without_copies(train, test) == train


def test_measuring_listings_are_enough() -> None:
    rows = read_listings(LISTINGS_TEST)
    categories = [row.categoria for row in rows]

    assert len(rows) >= 200
    assert len(set(categories)) == 28
    assert min(categories.count(category) for category in categories) >= 5


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_the_same_for_a_seed_and_another_for_another(kind: str) -> None:
    assert noise(kind, 50, 1) == noise(kind, 50, 1) != noise(kind, 50, 2)


def test_same_data_give_the_same_predictions_and_pruning_keeps_them_near() -> None:
    texts = [
        f"{word} {number}"
        for word in ("boneca de pano", "livro usado", "batom cor", "base líquida")
        for number in range(9)
    ]
    labels = [text.split()[0] for text in texts]
    weights = model.weigh(["listings-train"] * len(texts), labels)

    def train(keep: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        vect = model.new_vectorizer()
        vect.fit(texts)
        clf = model.fit(model.matrix(vect, texts), labels, weights)
        model.prune(vect, clf, keep)
        clf = model.fit(model.matrix(vect, texts), labels, weights)
        model.freeze(vect, clf, 2.0)
        return np.asarray(clf.predict_proba(vect.transform(texts)))

    assert train(60).tobytes() == train(60).tobytes()
    assert train(60).shape == (36, 4)
    assert (train(60).argmax(axis=1) == train(10**6).argmax(axis=1)).all()


def test_temperature_undoes_overconfidence() -> None:
    scores = np.array([[4.0, 0.0]] * 4)
    factor = model.temperature(scores, np.array([0, 0, 0, 1]), np.ones(4))

    assert model.softmax(scores * factor)[0, 0] == pytest.approx(0.75, abs=0.01)


def test_expected_calibration_error() -> None:
    error, bins = reliability(np.array([0.95, 0.95, 0.55, 0.55]), np.array([True, True, True, False]))

    assert error == pytest.approx((2 * 0.05 + 2 * 0.05) / 4)
    assert [(rows, accuracy) for _, rows, _, accuracy in bins] == [(2, 0.5), (2, 1.0)]
