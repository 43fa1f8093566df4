"""Features, weights, fit, pruning and calibration of the classifier."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion

from training.data import Item

Floats = NDArray[np.float64]

# How much each source weighs in the fit, whatever its number of rows; noise is data too (see noise.py).
SOURCE_WEIGHT = {
    "prodclass": 6.0,
    "taxonomia-google": 1.0,
    "produtos.csv": 60.0,
    "listings-train": 7.0,
    "ruído": 1.0,
    "longos": 1.5,
}
# Within a source a category of n rows weighs n ** CLASS_POWER: between as they come (1) and all equal (0).
CLASS_POWER = 0.5
CATEGORY_WEIGHT = {"livro": 3.0}  # the name of a book is of any words, each of which mostly says something else
# A block's values are counts times idf times this: about as large as if they were divided by a usual text's length.
# They are not, so that a text of few known words is a doubtful one, and so that scores add up word by word.
BLOCK_WEIGHT = {"palavras": 0.15, "letras": 0.027}
C = 2.0
PRUNING_ITERATIONS = 30
ITERATIONS = 120
FEATURES = 80_000  # of some 270,000; the rest say little
TYPED = ("prodclass", "produtos.csv", "longos")  # what sellers write, and not only vocabulary
CUT = 300  # characters of a book's description that train beside all of it: what a seller types is mostly short


def texts(item: Item) -> list[str]:
    """Return the texts that an item trains as, of those that a seller may type: titulo, descricao, and both."""
    if not item.descricao or item.fonte == "prodclass":
        return [item.titulo]
    both = f"{item.titulo} {item.descricao}"
    if item.fonte == "longos":
        return [both]
    if item.fonte == "produtos.csv":
        return [item.titulo, both[:CUT]]
    alone = [item.descricao] if item.fonte == "listings-train" and len(item.descricao.split()) >= 3 else []
    return [item.titulo, *alone, both]


def weigh(fontes: Sequence[str], categorias: Sequence[str]) -> NDArray[np.float32]:
    """Return a weight for each row (mean 1): each source its SOURCE_WEIGHT, each category in it n ** CLASS_POWER.

    A category of CATEGORY_WEIGHT weighs that many times as much.
    """
    rows = Counter(zip(fontes, categorias, strict=True))
    source = dict.fromkeys(fontes, 0.0)
    for (fonte, _), count in rows.items():
        source[fonte] += count**CLASS_POWER
    weight = np.array(
        [
            SOURCE_WEIGHT[fonte]
            / source[fonte]
            * rows[fonte, categoria] ** (CLASS_POWER - 1)
            * CATEGORY_WEIGHT.get(categoria, 1)
            for fonte, categoria in zip(fontes, categorias, strict=True)
        ]
    )
    return np.asarray(weight / weight.mean(), dtype=np.float32)


def new_vectorizer() -> FeatureUnion:
    """Return the features: words and pairs of words, and n-grams of letters within a word."""
    common = {"strip_accents": "unicode", "norm": None, "dtype": np.float32}
    return FeatureUnion(
        [
            ("palavras", TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2), min_df=2, **common)),
            ("letras", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=4, **common)),
        ],
        transformer_weights=BLOCK_WEIGHT,
    )


def matrix(vect: FeatureUnion, rows: Sequence[str]) -> sparse.csr_matrix:
    """Return the features of texts, float32, (rows, features)."""
    return sparse.csr_matrix(vect.transform(rows))


def fit(
    features: sparse.csr_matrix,
    categorias: Sequence[str],
    weights: NDArray[np.float32],
    start: LogisticRegression | None = None,
    iterations: int = ITERATIONS,
) -> LogisticRegression:
    """Return a multinomial logistic regression; `start` is a fitted one to start from."""
    clf = LogisticRegression(C=C, max_iter=iterations, warm_start=True)
    if start is not None:
        clf.classes_, clf.coef_, clf.intercept_ = start.classes_, start.coef_.copy(), start.intercept_.copy()
    with warnings.catch_warnings():  # the number of steps is set on purpose
        warnings.simplefilter("ignore", ConvergenceWarning)
        return clf.fit(features, np.asarray(categorias), weights)


def prune(vect: FeatureUnion, clf: LogisticRegression, keep: int) -> NDArray[np.int64]:
    """Cut the vectorizers and the classifier down to the `keep` features of the largest coefficients, in place.

    Returns the columns kept, in order. A feature's size is the Euclidean norm of its coefficients over the categories.
    """
    size = np.sqrt((clf.coef_.astype(np.float64) ** 2).sum(axis=0))
    kept: NDArray[np.int64] = np.sort(np.argsort(-size, kind="stable")[:keep])
    start = 0
    for _, block in vect.transformer_list:
        end = start + len(block.vocabulary_)
        columns = kept[(kept >= start) & (kept < end)] - start
        new = {int(old): number for number, old in enumerate(columns)}
        names = sorted((column, name) for name, column in block.vocabulary_.items() if int(column) in new)
        idf = block.idf_[columns]
        block.vocabulary_ = {name: new[int(column)] for column, name in names}
        block._tfidf.n_features_in_ = len(columns)
        block.idf_ = idf
        start = end
    clf.coef_ = np.ascontiguousarray(clf.coef_[:, kept])
    return kept


def softmax(scores: Floats) -> Floats:
    """Return probabilities of scores, (rows, categories)."""
    powers: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def temperature(scores: Floats, right: NDArray[np.int64], weights: Floats) -> float:
    """Return the factor on the scores under which the right categories are likeliest (Guo et al. 2017, 1 / T).

    scores (rows, categories), right (rows,) the column of the right category, weights (rows,) above 0.
    """
    factors = np.exp(np.linspace(-2, 2, 401))
    rows = np.arange(len(right))
    losses = [-(weights * np.log(softmax(scores * factor)[rows, right] + 1e-12)).sum() for factor in factors]
    return float(factors[int(np.argmin(losses))])


def held_for_calibration(item: Item) -> bool:
    """Tell whether an item is of the fifth on which temperature and threshold are found, by its hash.

    Vocabulary (listings without a descricao) always trains: what is typed is a listing, and it needs all the words.
    """
    typed = bool(item.descricao) if item.fonte == "listings-train" else item.fonte in TYPED
    return typed and hashlib.sha256(item.titulo.encode()).digest()[0] % 5 == 0


def freeze(vect: FeatureUnion, clf: LogisticRegression, factor: float) -> None:
    """Fold the temperature into the coefficients and make both ready to pickle, in place.

    Features come out in float64, so that whoever sums them in another order gets the same to 1e-12; the coefficients
    stay float32, half the size.
    """
    clf.coef_ = np.asarray(clf.coef_ * factor, dtype=np.float32)
    clf.intercept_ = np.asarray(clf.intercept_ * factor, dtype=np.float64)
    for _, block in vect.transformer_list:
        block.dtype = np.float64
        block.idf_ = block.idf_.astype(np.float64)
