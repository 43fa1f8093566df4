"""Unit: the classifier's answers against scikit-learn's own, on small models."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import BernoulliNB, MultinomialNB
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.svm import LinearSVC

from classifier import Classifier
from scorer import ModelError
from tests.conftest import CATEGORIES, TEXTS


def make(path: Path, vect: Any, clf: Any, meta: Any = None, categories: list[Any] = CATEGORIES) -> Classifier:
    clf.fit(vect.fit_transform(TEXTS), categories)
    path.write_bytes(pickle.dumps({"vect": vect, "clf": clf, "meta": meta}))
    return Classifier(path)


def test_confidence_and_alternatives_are_the_models_probabilities(tmp_path: Path) -> None:
    vect, clf = TfidfVectorizer(), LogisticRegression()
    classifier = make(tmp_path / "m", vect, clf)

    for text in [*TEXTS, "livro de boneca", ""]:
        details = classifier.explain(text)
        probabilities = dict(zip(clf.classes_, clf.predict_proba(vect.transform([text]))[0], strict=True))
        assert details["confianca"] == pytest.approx(probabilities.pop(details["categoria"]))
        assert {each["categoria"]: each["confianca"] for each in details["alternativas"]} == pytest.approx(
            probabilities
        )


def test_doubt_is_what_json_can_hold_whatever_number_the_card_has(tmp_path: Path) -> None:
    vect = HashingVectorizer(alternate_sign=False)  # which is not compiled
    classifier = make(tmp_path / "m", vect, MultinomialNB(), {"limiar_incerto": np.float64(0.5)})

    assert isinstance(classifier.predict_with_doubt("boneca")[1], bool)


@pytest.mark.parametrize("clf", [LogisticRegression(), LinearSVC(), SGDClassifier(random_state=0)])
@pytest.mark.parametrize(
    "vect",
    [
        CountVectorizer(),
        TfidfVectorizer(sublinear_tf=True, strip_accents="unicode"),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), norm="l1"),
        Pipeline([("counts", CountVectorizer(stop_words=["de"])), ("tfidf", TfidfTransformer())]),
        FeatureUnion([("a", TfidfVectorizer()), ("b", TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3)))]),
    ],
    ids=["counts", "sublinear", "characters", "pipeline", "union"],
)
def test_words_weights_add_up_to_the_score(vect: Any, clf: Any, tmp_path: Path) -> None:
    classifier = make(tmp_path / "m", vect, clf)

    for text in ["Boneca, de Pano!", "batom", "época época livro"]:
        details = classifier.explain(text)
        category = clf.classes_.tolist().index(details["categoria"])
        score = clf.decision_function(vect.transform([text]))[0][category] - clf.intercept_[category]
        assert details["palavras"] is not None
        weights = [word["peso"] for word in details["palavras"]]
        assert weights == sorted(weights, reverse=True)
        if all(word in [each["palavra"] for each in details["palavras"]] for word in "boneca de pano".split()):
            assert sum(weights) == pytest.approx(score)
        else:
            assert sum(weights) >= score - 1e-9  # the words that spoke against it are not shown


def test_ngram_counts_for_each_word_that_it_touches(tmp_path: Path) -> None:
    vect, clf = CountVectorizer(ngram_range=(1, 2)), LogisticRegression()
    classifier = make(tmp_path / "m", vect, clf)

    details = classifier.explain("boneca de pano")

    coef = clf.coef_[clf.classes_.tolist().index("brinquedo")]
    both = coef[vect.vocabulary_["boneca de"]]
    assert details["palavras"] is not None
    weights = {word["palavra"]: word["peso"] for word in details["palavras"]}
    assert weights["boneca"] == pytest.approx(coef[vect.vocabulary_["boneca"]] + both)


def test_at_most_five_words_as_the_seller_wrote_them(tmp_path: Path) -> None:
    classifier = make(tmp_path / "m", TfidfVectorizer(strip_accents="unicode"), LogisticRegression())

    words = classifier.explain("«Época», romance; LIVRO de receitas... com romance-época e livro!")["palavras"]

    assert words is not None
    assert 2 <= len(words) <= 5
    assert {"época", "romance"} <= {word["palavra"] for word in words}


def test_model_without_probabilities_says_none(tmp_path: Path) -> None:
    classifier = make(tmp_path / "m", CountVectorizer(), LinearSVC())

    known, unknown = classifier.explain("boneca"), classifier.explain("xyz")

    assert (known["confianca"], known["incerto"], unknown["incerto"]) == (None, None, True)
    assert [each["confianca"] for each in known["alternativas"]] == [None, None]


@pytest.mark.parametrize(
    ("vect", "clf"), [(CountVectorizer(), BernoulliNB()), (HashingVectorizer(n_features=99), LogisticRegression())]
)
def test_model_that_is_not_linear_or_has_no_vocabulary_names_no_words(vect: Any, clf: Any, tmp_path: Path) -> None:
    assert make(tmp_path / "m", vect, clf).explain("boneca")["palavras"] is None


@pytest.mark.parametrize("clf", [LogisticRegression(), LinearSVC()])
def test_two_categories(clf: Any, tmp_path: Path) -> None:
    classifier = make(tmp_path / "m", CountVectorizer(), clf, categories=["a", "a", "a", "b", "b", "b"])

    for text, category in [("boneca de pano", "a"), ("batom vermelho", "b")]:
        details = classifier.explain(text)
        assert details["categoria"] == category
        assert details["palavras"]


def test_categories_that_are_numbers_stay_numbers(tmp_path: Path) -> None:
    classifier = make(tmp_path / "m", CountVectorizer(), MultinomialNB(), categories=np.arange(6).tolist())

    answer: object = classifier.predict("boneca de pano")
    assert answer == 0


def test_threshold_of_the_card(tmp_path: Path) -> None:
    sure = make(tmp_path / "m", CountVectorizer(), MultinomialNB(), {"limiar_incerto": 0})
    unsure = make(tmp_path / "n", CountVectorizer(), MultinomialNB(), {"limiar_incerto": 1})

    assert (sure.explain("boneca")["incerto"], unsure.explain("boneca")["incerto"]) == (False, True)
    assert sure.explain("xyz")["incerto"] is True  # whatever the threshold


@pytest.mark.parametrize(
    "clf", [MultinomialNB(), LinearSVC(), Pipeline([("svc", LinearSVC())])], ids=["sure", "none", "uncompiled"]
)
def test_doubt_is_what_the_details_say(clf: Any, tmp_path: Path) -> None:
    classifier = make(tmp_path / "m", CountVectorizer(), clf, {"limiar_incerto": 0.6})

    for text in [*TEXTS, "livro de boneca", "zzz", ""]:
        details = classifier.explain(text)
        assert classifier.predict_with_doubt(text) == (classifier.predict(text), details["incerto"])
        assert details["categoria"] == classifier.predict(text)


def test_phrase_of_the_card_that_comes_out_wrong_is_refused(tmp_path: Path) -> None:
    meta = {"frases": [{"texto": "boneca de pano", "categoria": "livro"}]}

    with pytest.raises(ModelError, match="'boneca de pano' is 'brinquedo', and its card says 'livro'"):
        make(tmp_path / "m", CountVectorizer(), MultinomialNB(), meta)


@pytest.mark.parametrize(
    "broken",
    ["not fitted", "other features", "no classifier", "vocabulary outside itself", "fewer priors", "fewer classes"],
)
def test_model_that_cannot_predict_is_refused(broken: str, tmp_path: Path) -> None:
    vect: Any = CountVectorizer()
    clf: Any = MultinomialNB().fit(vect.fit_transform(TEXTS), CATEGORIES)
    if broken == "not fitted":
        clf = MultinomialNB()
    elif broken == "other features":
        vect = CountVectorizer().fit(["só isto"])
    elif broken == "no classifier":
        clf = CountVectorizer()
    elif broken == "fewer priors":
        clf.class_log_prior_ = clf.class_log_prior_[:-1]
    elif broken == "fewer classes":
        clf.classes_ = clf.classes_[:-1]
    else:
        vect.vocabulary_ = {word: index + 10**6 for word, index in vect.vocabulary_.items()}
    path = tmp_path / "model.sav"
    path.write_bytes(pickle.dumps({"vect": vect, "clf": clf}))

    with pytest.raises(ModelError, match=r"model\.sav"):
        Classifier(path)
