"""Make model.sav: `python -m training.train [--data FOLDER] [--out FILE] [--no-book]`."""

import argparse
import os
import pickle
import random
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from training import model, report
from training.data import LISTINGS, LISTINGS_TEST, Item, MissingSource, read_listings, read_sources
from training.noise import KINDS, TALK, TALK_TEST, noise, shop_talk
from training.split import merge, near_key, split, without_copies

# The share of the calibration listings that is to be `incerto`. They are no two alike and so harder than what a shop
# sees, where fewer are; a quantile, and not a precision reached, because hundreds of them place it firmly.
DOUBTFUL = 0.15
NOISE_ROWS = 20_000
TRAIN_SEED, TEST_SEED = 1, 2
PHRASES = {
    "soldadinhos de plástico": "brinquedo",
    "batom vermelho": "maquiagem",
    "dark souls": "game",
    "O senhor dos anéis": "livro",
    "O senhor dos aneis": "livro",
    "Kit 4 Esponjas Maquiagem Formato de Coração": "maquiagem",
    "boneca de pano": "brinquedo",
}


def say(text: str) -> None:
    """Tell how far it is, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)


def noise_items(categorias: Sequence[str]) -> list[Item]:
    """Return noise that trains, its categories spread evenly (Hendrycks et al. 2019): who knows no word must doubt."""
    rows = [text for kind in KINDS for text in noise(kind, NOISE_ROWS // len(KINDS), TRAIN_SEED)]
    spread = [categorias[number % len(categorias)] for number in range(len(rows))]
    random.Random(TRAIN_SEED).shuffle(spread)
    return [Item("ruído", text, "", categoria) for text, categoria in zip(rows, spread, strict=True)]


def long_items(items: Sequence[Item]) -> list[Item]:
    """Return long texts: books with all of their description, and listings over what sellers put under any product."""
    books = [item._replace(fonte="longos") for item in items if item.fonte == "produtos.csv" and item.descricao]
    listings = [item for item in items if item.fonte == "listings-train" and item.descricao]
    talk = shop_talk(TALK, len(listings), TRAIN_SEED)
    under = [
        item._replace(fonte="longos", descricao=f"{item.descricao} {text}")
        for item, text in zip(listings, talk, strict=True)
    ]
    return under + books


def train(items: Sequence[Item]) -> tuple[FeatureUnion, LogisticRegression, float]:
    """Return the vectorizer, the classifier and the threshold of `incerto`, fitted on `items` and on noise."""
    categorias = sorted({item.categoria for item in items})
    every = [*items, *noise_items(categorias), *long_items(items)]
    rows = [(text, item) for item in every for text in model.texts(item)]
    text = [row for row, _ in rows]
    labels = [item.categoria for _, item in rows]
    weights = model.weigh([item.fonte for _, item in rows], labels)

    vect = model.new_vectorizer()
    vect.fit([row for row, item in rows if item.fonte not in ("ruído", "longos")])
    features = model.matrix(vect, text)
    say(f"{features.shape[0]} texts, {features.shape[1]} features; which of them to keep")
    clf = model.fit(features, labels, weights, iterations=model.PRUNING_ITERATIONS)
    model.prune(vect, clf, model.FEATURES)
    features = model.matrix(vect, text)

    say(f"{features.shape[1]} features; temperature and threshold, on the fifth left out")
    rest = [row for row, (_, item) in enumerate(rows) if not model.held_for_calibration(item)]
    trial = model.fit(features[rest], [labels[row] for row in rest], weights[rest])
    held = [item for item in items if model.held_for_calibration(item)]
    scores = trial.decision_function(model.matrix(vect, [report.typed(item) for item in held])).astype(np.float64)
    fontes = np.array([item.fonte for item in held])
    each = np.array([1 / (fontes == fonte).sum() for fonte in fontes])  # every source weighs the same
    factor = model.temperature(scores, np.searchsorted(categorias, [item.categoria for item in held]), each)
    listings = model.softmax(scores[fontes == "listings-train"] * factor).max(axis=1)
    limiar = round(float(np.quantile(listings, DOUBTFUL)), 3)

    say(f"temperature {1 / factor:.2f}, threshold {limiar}; the model itself")
    clf = model.fit(features, labels, weights, start=clf)
    model.freeze(vect, clf, factor)
    return vect, clf, limiar


def today() -> str:
    """Return the UTC date, of SOURCE_DATE_EPOCH where it is set."""
    return datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), UTC).date().isoformat()


def build(folder: Path, book: bool) -> tuple[dict[str, Any], str]:
    """Return what model.sav holds and the report in Markdown. Raise MissingSource."""
    listings_test = read_listings(LISTINGS_TEST)
    phrases = [Item("frases", phrase, "", categoria) for phrase, categoria in PHRASES.items()]
    sources = read_sources(folder, book)
    items, test = split(merge(sources))
    names = [item for item in test if item.fonte == "produtos.csv"]
    held = {near_key(item.titulo) for item in test}
    listings = [
        item
        for item in without_copies(read_listings(LISTINGS), [*listings_test, *phrases, *names])
        if near_key(item.titulo) not in held
    ]
    items += listings
    say(f"{len(items)} items train, {len(test)} and {len(listings_test)} listings measure")
    vect, clf, limiar = train(items)
    noises = {kind: noise(kind, 200, TEST_SEED) for kind in KINDS}
    trained = {near_key(item.titulo) for item in items}
    measured = [item for item in listings_test if near_key(item.titulo) not in trained]  # a receipt may name the same
    talk = shop_talk(TALK_TEST, len(measured), TEST_SEED)
    long = [item._replace(descricao=f"{item.descricao} {under}") for item, under in zip(measured, talk, strict=True)]
    parts = {
        "recibos": [item for item in test if item.fonte == "prodclass"],
        "livro": names,
        "anuncios": measured,
        "anuncios_longos": long,
    }
    qualidade, text = report.measure(vect, clf, limiar, parts, noises, PHRASES)
    meta = {
        "sklearn": sklearn.__version__,
        "treinado_em": today(),
        "dados": report.sources([*sources, *listings]),
        "qualidade": qualidade,
        "limiar_incerto": limiar,
        "frases": [{"texto": phrase, "categoria": categoria} for phrase, categoria in PHRASES.items()],
    }
    return {"vect": vect, "clf": clf, "meta": meta}, text


def main() -> int:
    """Train, write the model and, beside this file, REPORT.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the sources")
    parser.add_argument("--out", type=Path, default=Path("model.sav"))
    parser.add_argument("--report", type=Path, default=Path(__file__).parent / "REPORT.md")
    parser.add_argument("--no-book", action="store_true", help="leave the book's listings (CC BY-NC-SA) out")
    options = parser.parse_args()
    try:
        # one thread: sums in one order, so that the same data give the same model
        with threadpool_limits(limits=1):
            saved, text = build(options.data, not options.no_book)
    except MissingSource as error:
        print(f"error: {error}", file=sys.stderr)
        return 66
    options.out.write_bytes(pickle.dumps(saved, protocol=5))
    options.report.write_text(text, encoding="utf-8")
    say(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB; {options.report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
