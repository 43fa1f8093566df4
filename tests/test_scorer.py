"""The compiled model answers as scikit-learn does: on texts made of its own vocabulary, and over the options."""

from __future__ import annotations

import csv
import random
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import ComplementNB, MultinomialNB
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.svm import LinearSVC

import model_file
from compiler import NotCompilable, compile_model
from model_file import Model
from scorer import ModelError, Scorer
from tests.conftest import CATEGORIES, ROOT, TEXTS

VECTORIZERS: dict[str, Callable[[], Any]] = {
    "counts": CountVectorizer,
    "word pairs": lambda: TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, stop_words=["de", "para"], norm="l1"),
    "characters": lambda: TfidfVectorizer(analyzer="char", ngram_range=(2, 4), min_df=3, dtype=np.float32),
    "in words": lambda: TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), min_df=3, strip_accents="unicode", norm="l1"
    ),
    "union": lambda: FeatureUnion(
        [
            ("words", Pipeline([("counts", CountVectorizer(binary=True)), ("tfidf", TfidfTransformer())])),
            ("letters", TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3), strip_accents="ascii")),
        ],
        transformer_weights={"letters": 0.5},
    ),
    "by words": lambda: FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", norm=None)),
            ("letters", TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=3, norm=None)),
        ],
        transformer_weights={"words": 0.1, "letters": 0.03},
    ),
}
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "multinomial": MultinomialNB,
    "complement": ComplementNB,
    "logistic": lambda: LogisticRegression(max_iter=20),
    "log loss": lambda: SGDClassifier(loss="log_loss", max_iter=5, tol=None, random_state=0),
    "huber": lambda: SGDClassifier(loss="modified_huber", max_iter=5, tol=None, random_state=0),
    "svc": LinearSVC,
}


def listings(name: str) -> list[dict[str, str]]:
    with (ROOT / "training" / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=";"))


@pytest.fixture(scope="module")
def sample() -> tuple[list[str], list[str]]:
    """Texts and categories of some listings, some of each category."""
    rows = listings("listings-train.csv")[::20]
    return [f"{row['titulo']} {row['descricao']}" for row in rows], [row["categoria"] for row in rows]


def made_of(terms: list[str], count: int, seed: int) -> Iterator[str]:
    """Yield texts of the model's terms: joined, cut, misspelt, recased, decomposed, spliced with anything."""
    pick = random.Random(seed)
    for _ in range(count):
        words = [pick.choice(terms) for _ in range(pick.randint(2, 9))]
        at = pick.randrange(len(words))
        change = pick.randrange(8)
        if change == 1:
            words[at] = words[at][: pick.randint(1, 4)]
        elif change == 2:
            words[at] = words[at].replace(pick.choice("aeiours"), pick.choice("aeiours"), 1)
        elif change == 3:
            words[at] = pick.choice([str.upper, str.title, str.swapcase])(words[at])
        elif change == 4:
            words[at] = unicodedata.normalize("NFD", words[at])
        elif change == 5:
            words.insert(at, "".join(chr(pick.randrange(1, 0x3000)) for _ in range(pick.randint(1, 5))))
        elif change == 6:
            words.insert(at, chr(pick.randrange(0x10000, 0x110000)) + pick.choice("\u0301\u00ad\u200b\u0130ßΣ"))
        elif change == 7:
            words[at - 1 : at + 1] = ["".join(words[at - 1 : at + 1])]
        yield pick.choice([" ", " ", " ", "  ", ", ", "\n", "-"]).join(words)


def long(texts: list[str]) -> list[str]:
    """Return some texts of 50 of these each, whose words are looked up all at once, and of one 50 times."""
    at = range(0, len(texts) - 50, 500)
    return [" ".join(texts[n : n + 50]) for n in at] + [" ".join([texts[n]] * 50) for n in at]


def assert_same_answers(scorer: Scorer, vect: Any, clf: Any, texts: list[str], features: Any = None) -> None:
    """Check the categories, but for near ties, and the probabilities to 1e-6; 9 texts of 10 must hit the vocabulary."""
    features = vect.transform(texts) if features is None else features
    assert (np.diff(features.indptr) > 0).mean() >= 0.9
    expected = clf.predict(features)
    ours = [scorer.judge(text) for text in texts]
    ties = 0
    for judgement, category in zip(ours, expected, strict=True):
        if scorer.classes[judgement.best] != category:
            best, second = sorted(judgement.scores, reverse=True)[:2]
            assert best - second < 1e-6 * max(1, abs(best))
            ties += 1
    assert ties <= len(texts) / 200  # classes that have seen none of a text's words may score alike
    if hasattr(clf, "predict_proba"):
        probabilities = np.array([judgement.probabilities for judgement in ours])
        np.testing.assert_allclose(probabilities, clf.predict_proba(features), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")  # how good the models are is no matter here
@pytest.mark.parametrize("vectorizer", VECTORIZERS.values(), ids=VECTORIZERS)
def test_each_supported_pair_answers_as_scikit_learn(
    vectorizer: Callable[[], Any], sample: tuple[list[str], list[str]], tmp_path: Path, texts: int
) -> None:
    vect = vectorizer()
    trained = vect.fit_transform(sample[0])
    words = sorted(CountVectorizer().fit(sample[0]).vocabulary_)
    for start in range(0, texts, 20_000):
        made = list(made_of(words, min(20_000, texts - start), seed=start))
        made += long(made)
        features = vect.transform(made)
        for create in CLASSIFIERS.values():
            clf = create().fit(trained, sample[1])
            compile_model(Model(vect, clf, {}, "")).save(tmp_path / "compiled", {})
            scorer, _ = Scorer.load(tmp_path / "compiled")
            assert_same_answers(scorer, vect, clf, made, features)


@pytest.mark.parametrize(
    "pipeline",
    [
        Pipeline([("vect", TfidfVectorizer()), ("clf", LogisticRegression())]),
        Pipeline([("counts", CountVectorizer()), ("tfidf", TfidfTransformer()), ("clf", LinearSVC())]),
    ],
    ids=["one step", "two steps"],
)
def test_pipeline_saved_as_the_readme_says_is_compiled(pipeline: Pipeline) -> None:
    pipeline.fit(TEXTS, CATEGORIES)

    scorer = compile_model(Model(pipeline[:-1], pipeline[-1], {}, ""))

    assert_same_answers(scorer, pipeline[:-1], pipeline[-1], TEXTS)


def test_shipped_model_answers_as_scikit_learn(texts: int) -> None:
    model = model_file.load(ROOT / "model.sav")
    scorer = compile_model(model)
    rows = listings("listings-test.csv") + listings("listings-train.csv")
    terms = [term for block in scorer.blocks if block.options.analyzer == "word" for term in block.terms.strings()]

    assert_same_answers(scorer, model.vect, model.clf, [f"{row['titulo']} {row['descricao']}" for row in rows])
    for start in range(0, texts, 20_000):
        made = list(made_of(terms, min(20_000, texts - start), seed=start))
        assert_same_answers(scorer, model.vect, model.clf, made + long(made))


@st.composite
def vectorizers(draw: st.DrawFn) -> Any:
    """Any combination of the options that change what a vectorizer makes of a text."""
    low = draw(st.integers(1, 4))
    options = {
        "analyzer": draw(st.sampled_from(["word", "char", "char_wb"])),
        "ngram_range": (low, low + draw(st.integers(0, 3))),
        "lowercase": draw(st.booleans()),
        "strip_accents": draw(st.sampled_from([None, "ascii", "unicode"])),
        "binary": draw(st.booleans()),
        "token_pattern": draw(st.sampled_from([r"(?u)\b\w\w+\b", r"(?u)\b\w+\b", r"\S+", r"(\w)\w*"])),
        "stop_words": draw(st.sampled_from([None, "english", ["de", "pano"]])),
    }
    if draw(st.booleans()):
        return CountVectorizer(**options)
    return TfidfVectorizer(
        **options,
        sublinear_tf=draw(st.booleans()),
        use_idf=draw(st.booleans()),
        smooth_idf=draw(st.booleans()),
        norm=draw(st.sampled_from(["l1", "l2", None])),
        dtype=draw(st.sampled_from([np.float32, np.float64])),
    )


ALPHABET = st.sampled_from(list("\0aábcde AÉÇ-_,.1\n\t\u0301\u034f\u00a0\u2003ßİΣς\U0001f600\ud800"))


@pytest.mark.filterwarnings("ignore:The parameter", "ignore:Your stop_words")
@settings(max_examples=400, deadline=None)
@given(
    vect=vectorizers(), corpus=st.lists(st.text(ALPHABET, max_size=30), max_size=4), text=st.text(ALPHABET, max_size=60)
)
def test_values_are_the_vectorizers_whatever_its_options(vect: Any, corpus: list[str], text: str) -> None:
    try:
        vect.fit([*corpus, "boneca de pano", "the carrinho de Brinquedo e pano"])
    except ValueError:  # an empty vocabulary
        return
    clf = MultinomialNB().fit(vect.transform(["boneca", "pano"]), ["a", "b"])
    (block,) = compile_model(Model(vect, clf, {}, "")).blocks

    columns, values = block.values(text)

    row = vect.transform([text])
    names = vect.get_feature_names_out()
    terms = [*block.terms.strings()]
    expected = {names[column]: value for column, value in zip(row.indices, row.data, strict=True)}
    assert {terms[column]: value for column, value in zip(columns, values, strict=True)} == pytest.approx(
        expected, rel=1e-6
    )


@settings(max_examples=100, deadline=None)
@given(
    vect=vectorizers(),
    text=st.text(st.one_of(ALPHABET, st.sampled_from("bonecarlp "), st.characters()), max_size=60),
)
@pytest.mark.filterwarnings("ignore:The parameter", "ignore:Your stop_words")
def test_any_text_has_scikit_learns_answer_and_shares(vect: Any, text: str) -> None:
    try:
        clf = LogisticRegression().fit(vect.fit_transform(TEXTS), CATEGORIES)
    except ValueError:
        return
    scorer = compile_model(Model(vect, clf, {}, ""))

    judgement = scorer.judge(text)

    expected = clf.predict_proba(vect.transform([text]))[0]
    np.testing.assert_allclose(np.array(judgement.probabilities), expected, rtol=0, atol=1e-6)
    assert set(scorer.shares(text, judgement.best)) == set(text.split())


@pytest.mark.parametrize("clf", [RidgeClassifier(), Perceptron(), LinearSVC(), SGDClassifier(random_state=0)])
@pytest.mark.parametrize("categories", [CATEGORIES, ["a", "a", "a", "b", "b", "b"]], ids=["three", "two"])
def test_scores_of_a_model_without_probabilities(clf: Any, categories: list[str]) -> None:
    vect = TfidfVectorizer()
    clf.fit(vect.fit_transform(TEXTS), categories)

    assert_same_answers(compile_model(Model(vect, clf, {}, "")), vect, clf, TEXTS)


@pytest.mark.parametrize(
    "vect",
    [
        CountVectorizer(tokenizer=str.split, token_pattern=None),
        CountVectorizer(preprocessor=str.lower),
        CountVectorizer(analyzer=str.split),
        CountVectorizer(strip_accents=str.lower),
        CountVectorizer(ngram_range=(0, 2)),
        CountVectorizer(analyzer="char_wb", ngram_range=(0, 2)),
        CountVectorizer(analyzer="char", ngram_range=(2, 2**31)),
        CountVectorizer(dtype="int8"),  # in which 128 is -128
    ],
)
def test_vectorizer_that_calls_a_function_or_counts_otherwise_is_not_compiled(vect: Any) -> None:
    clf = MultinomialNB().fit(vect.fit_transform(TEXTS), CATEGORIES)

    with pytest.raises(NotCompilable):
        compile_model(Model(vect, clf, {}, ""))


@pytest.mark.parametrize("ngram_range", [(2, 1), (1, 0), (1, -5), (2**31, 2**31), (1, 2**32 + 1)])
@pytest.mark.parametrize("analyzer", ["word", "char", "char_wb"])
def test_range_that_was_changed_is_not_compiled(analyzer: str, ngram_range: tuple[int, int]) -> None:
    vect = CountVectorizer(analyzer=analyzer)
    clf = MultinomialNB().fit(vect.fit_transform(TEXTS), CATEGORIES)
    vect.ngram_range = ngram_range

    with pytest.raises(NotCompilable):
        compile_model(Model(vect, clf, {}, ""))


def test_given_vocabulary_needs_no_fit() -> None:
    vect = CountVectorizer(vocabulary=["boneca", "livro", "batom"])
    clf = MultinomialNB().fit(CountVectorizer(vocabulary=vect.vocabulary).transform(TEXTS), CATEGORIES)

    assert compile_model(Model(vect, clf, {}, "")).judge("um livro").best == 1


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_score_that_is_no_number_is_the_best_as_numpy_has_it() -> None:
    vect = CountVectorizer()
    clf = ComplementNB(alpha=0, norm=True).fit(vect.fit_transform(TEXTS), CATEGORIES)
    scorer = compile_model(Model(vect, clf, {}, ""))

    assert [scorer.classes[scorer.judge(text).best] for text in TEXTS] == clf.predict(vect.transform(TEXTS)).tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", ["log_loss", "modified_huber"])
@pytest.mark.filterwarnings("ignore:Maximum number of iteration")
def test_probabilities_far_from_0_are_scikit_learns(loss: str, dtype: Any) -> None:
    vect = CountVectorizer(analyzer="char", dtype=dtype)
    clf = SGDClassifier(loss=loss, max_iter=9, random_state=0).fit(vect.fit_transform(TEXTS), CATEGORIES)
    clf.coef_ -= clf.coef_.max() + 1  # so that no class is likely
    texts = [letter * times for letter in "abeilno " for times in (1, 9, 99, 300, 999)]

    assert_same_answers(compile_model(Model(vect, clf, {}, "")), vect, clf, texts)


@pytest.mark.parametrize("pattern", [r"\w*", r"(?u)\b\w+\b"])
def test_words_have_all_of_the_score_between_them(pattern: str) -> None:
    vect = TfidfVectorizer(token_pattern=pattern, norm=None, use_idf=False)
    clf = LogisticRegression(C=10).fit(vect.fit_transform(TEXTS), CATEGORIES)
    scorer = compile_model(Model(vect, clf, {}, ""))

    shares = scorer.shares("boneca- -base", 0)

    assert sum(shares.values()) == pytest.approx(scorer.judge("boneca- -base").scores[0] - clf.intercept_[0])


def test_stop_word_between_two_has_no_share() -> None:
    vect = CountVectorizer(ngram_range=(2, 2), stop_words=["de"])
    clf = LogisticRegression().fit(vect.fit_transform(TEXTS), CATEGORIES)

    shares = compile_model(Model(vect, clf, {}, "")).shares("boneca de pano", 0)

    assert shares["boneca"] == shares["pano"] > shares["de"] == 0


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_infinite_weights_of_one_block_leave_the_others_alone() -> None:
    vect = VECTORIZERS["by words"]()
    vect.set_params(letters__min_df=1)
    clf = MultinomialNB(alpha=0).fit(vect.fit_transform(TEXTS), CATEGORIES)
    assert np.isinf(clf.feature_log_prob_).any()

    assert_same_answers(compile_model(Model(vect, clf, {}, "")), vect, clf, TEXTS)


@pytest.mark.filterwarnings("ignore:Your stop_words")
def test_terms_that_no_text_yields_add_nothing() -> None:
    words = CountVectorizer(vocabulary=["boneca", "x", "zzz"], stop_words=["zzz"], dtype=np.float64)
    letters = CountVectorizer(analyzer="char_wb", ngram_range=(3, 3), dtype=np.float64)
    vect = FeatureUnion([("words", words), ("letters", letters)])
    clf = MultinomialNB().fit(vect.fit_transform(TEXTS), ["a", "a", "a", "b", "b", "b"])
    scorer = compile_model(Model(vect, clf, {}, ""))

    assert_same_answers(
        scorer, vect, clf, [f"{text} {more}" for text in TEXTS for more in ("x", "zzz", "c++", "x zzz")]
    )
    assert not scorer.judge("zzz x").known


@pytest.mark.parametrize("analyzer", ["char", "char_wb"])
def test_nul_is_found_only_where_it_is(analyzer: str) -> None:
    vect = CountVectorizer(analyzer=analyzer, ngram_range=(1, 4))
    clf = LogisticRegression().fit(vect.fit_transform([f"{TEXTS[0]} \0", *TEXTS[1:]]), CATEGORIES)
    scorer = compile_model(Model(vect, clf, {}, ""))

    assert_same_answers(scorer, vect, clf, ["a", "\0", "a\0", "é o", "bone", *TEXTS])
    assert not scorer.judge("?").known or analyzer == "char_wb"  # there the blanks around it are known


def test_words_of_the_same_bytes_in_memory_are_not_the_same() -> None:
    vect = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2))
    texts = ["4l boneca", "水 carrinho", "4l 4l livro", "水 水 romance", "batom \U00014e00", "base NN\1"]
    clf = LogisticRegression().fit(vect.fit_transform(texts), CATEGORIES)

    assert_same_answers(compile_model(Model(vect, clf, {}, "")), vect, clf, [*texts, "水", "4l", "水 4l", "NN\1\0"])


def test_given_word_with_a_line_end_leaves_the_others_alone() -> None:
    words = CountVectorizer(vocabulary=["a\nb", "boneca", "carro", "zz", ""], dtype=np.float64)
    letters = CountVectorizer(analyzer="char_wb", ngram_range=(3, 3), vocabulary=["bon", "arr"], dtype=np.float64)
    vect = FeatureUnion([("words", words), ("letters", letters)])
    clf = LogisticRegression().fit(vect.fit_transform(["boneca", "carro", "zz"]), CATEGORIES[::2])

    assert_same_answers(compile_model(Model(vect, clf, {}, "")), vect, clf, ["boneca", "carro", "zz", "a\nb zz"])


@pytest.mark.parametrize("analyzer", ["char", "char_wb"])
def test_text_that_unicode_expands_takes_no_more_memory_than_a_worker_has(analyzer: str) -> None:
    vect = TfidfVectorizer(analyzer=analyzer, ngram_range=(2, 5), strip_accents="unicode")
    clf = MultinomialNB().fit(vect.fit_transform([f"{TEXTS[0]} \ufdfa", *TEXTS[1:]]), CATEGORIES)
    scorer = compile_model(Model(vect, clf, {}, ""))

    tracemalloc.start()
    scorer.judge("\ufdfa" * 20_000)  # 360,000 letters
    _, judged = tracemalloc.get_traced_memory()
    scorer.shares("\ufdfa" * 20_000, 0)
    _, explained = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert judged < 40_000_000
    assert explained < 100_000_000


def test_idf_that_is_not_the_vocabularys_is_refused() -> None:
    vect = TfidfVectorizer()
    clf = MultinomialNB().fit(vect.fit_transform(TEXTS), CATEGORIES)
    vect._tfidf.idf_ = vect.idf_[:-1]

    with pytest.raises(ModelError, match="one idf for each"):
        compile_model(Model(vect, clf, {}, ""))


def test_words_of_any_length_do_not_fill_the_memory() -> None:
    vect = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), norm=None)
    clf = MultinomialNB().fit(vect.fit_transform(TEXTS), CATEGORIES)
    scorer = compile_model(Model(vect, clf, {}, ""))
    texts = [f"{'boneca' * 3000}{number}" for number in range(20)]
    for text in texts[:2]:
        scorer.judge(text)

    tracemalloc.start()
    for text in texts:
        scorer.judge(text)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert grown < 100_000  # one such word's columns take 72 KB
