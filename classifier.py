"""Text in, category out: what the model answers, how sure it is, and which words spoke for it."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

import model_file
from model_file import ModelError

ALTERNATIVES = 3
WORDS = 5


class Alternative(TypedDict):
    """A category that comes next, with its probability (0…1), or None where the model gives none."""

    categoria: str
    confianca: float | None


class Word(TypedDict):
    """A word of the text and how much it added to the category's score."""

    palavra: str
    peso: float


class Details(TypedDict):
    """What `Classifier.explain` answers; None where the model has nothing to say."""

    categoria: str
    confianca: float | None
    incerto: bool | None
    alternativas: list[Alternative] | None
    palavras: list[Word] | None


class Classifier:
    """A model that has shown that it can predict."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Load the file and try it: on any text, and on the phrases that its card says it gets right.

        Raises ModelError where it cannot be loaded, cannot predict, or gets a phrase wrong.
        """
        model = model_file.load(path)
        self._vect, self._clf, self._meta = model.vect, model.clf, model.meta
        self.sha256, self.sklearn = model.sha256, model.sklearn
        try:
            self.categories: list[str] = self._clf.classes_.tolist()
            self._coef = _coefficients(self._clf)
            self._vectorizers = None if self._coef is None else _count_vectorizers(self._vect)
            self.explain("boneca de pano")
            for phrase in self._meta.get("frases", []):
                answer = self.predict(phrase["texto"])
                if answer != phrase["categoria"]:
                    raise ModelError(f"{phrase['texto']!r} is {answer!r}, and its card says {phrase['categoria']!r}")
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        except model_file.BROKEN as error:
            raise ModelError(
                f"{path}: cannot predict with scikit-learn {sklearn.__version__}, "
                f"made by {self.sklearn} ({type(error).__name__}: {error})"
            ) from error

    def card(self) -> dict[str, Any]:
        """Return what the model says of itself, in the wire's names; None where its file has no card."""
        return {
            "categorias": self.categories,
            "sha256": self.sha256,
            "sklearn": self.sklearn,
            **{key: self._meta.get(key) for key in ("treinado_em", "dados", "qualidade")},
        }

    def predict(self, text: str) -> str:
        """Return the text's category."""
        category: str = self._clf.predict(self._vect.transform([text])).tolist()[0]
        return category

    def explain(self, text: str) -> Details:
        """Return the text's category with its probability, the next best and the words that spoke for it."""
        features = self._vect.transform([text])
        category: str = self._clf.predict(features).tolist()[0]
        confidence, alternatives = self._ranking(features, category)
        uncertain = None if confidence is None else confidence < self._meta.get("limiar_incerto", 0.5)
        return {
            "categoria": category,
            "confianca": confidence,
            "incerto": True if features.nnz == 0 else uncertain,
            "alternativas": alternatives,
            "palavras": self._words(text, features, self.categories.index(category)),
        }

    def _ranking(self, features: Any, category: str) -> tuple[float | None, list[Alternative] | None]:
        """Return the category's probability and the next best categories, best first."""
        calibrated = hasattr(self._clf, "predict_proba")
        if not calibrated and len(self.categories) < 3:  # decision_function is one number, not one a class
            return None, None
        scores = (self._clf.predict_proba if calibrated else self._clf.decision_function)(features)[0].tolist()
        ranked = sorted(zip(scores, self.categories, strict=True), key=lambda pair: -pair[0])
        others: list[Alternative] = [
            {"categoria": name, "confianca": score if calibrated else None}
            for score, name in ranked
            if name != category
        ]
        return scores[self.categories.index(category)] if calibrated else None, others[:ALTERNATIVES]

    def _words(self, text: str, features: Any, category: int) -> list[Word] | None:
        """Return the words that added most to the category's score, most first; a word is what stands between blanks.

        Every n-gram's share of the score (its value in the text times its coefficient) counts for each word it touches.
        """
        if self._coef is None or self._vectorizers is None:
            return None
        shares = features.data * self._coef[category, features.indices]
        share_of = dict(zip(features.indices.tolist(), shares.tolist(), strict=True))
        words = text.split()
        weights: defaultdict[str, float] = defaultdict(float)
        for vectorizer, offset in self._vectorizers:
            column = vectorizer.vocabulary_.get
            known = [(offset + c, at) for gram, at in _ngrams(vectorizer, words) if (c := column(gram)) is not None]
            times = Counter(index for index, _ in known)
            for index, at in known:
                for position in at:
                    weights[_bare(words[position])] += share_of[index] / times[index]
        best = sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))
        return [{"palavra": word, "peso": weight} for word, weight in best[:WORDS] if word and weight > 0]


def _bare(word: str) -> str:
    """Return the word in lower case without the punctuation around it."""
    inside = [position for position, character in enumerate(word) if character.isalnum()]
    return word[inside[0] : inside[-1] + 1].lower() if inside else ""


def _coefficients(clf: Any) -> NDArray[Any] | None:
    """Return what each feature adds to each class's score, of shape (classes, features); None if it is not linear.

    Naive Bayes' logarithms say something only against the other classes' (they are all below 0), so their mean
    over the classes is taken off, which changes no probability.
    """
    if hasattr(clf, "coef_"):
        coef = np.asarray(clf.coef_)
        return np.vstack([-coef, coef]) if len(coef) == 1 else coef  # of two classes only the second's is kept
    if hasattr(clf, "feature_log_prob_") and not hasattr(clf, "binarize"):  # BernoulliNB counts absent words too
        logarithms: NDArray[Any] = np.asarray(clf.feature_log_prob_)
        return np.asarray(logarithms - logarithms.mean(axis=0))
    return None


def _count_vectorizers(vect: Any, offset: int = 0) -> list[tuple[CountVectorizer, int]] | None:
    """Return the vectorizers with a vocabulary, each with its first column; None where a column has no n-gram."""
    if isinstance(vect, CountVectorizer):
        count = len(vect.vocabulary_)
        if not all(0 <= index < count for index in vect.vocabulary_.values()):
            raise ModelError("the vectorizer's vocabulary points outside itself")
        return [(vect, offset)]
    if isinstance(vect, Pipeline) and all(isinstance(step, TfidfTransformer) for _, step in vect.steps[1:]):
        return _count_vectorizers(vect.steps[0][1], offset)
    if isinstance(vect, FeatureUnion):
        found: list[tuple[CountVectorizer, int]] = []
        for _, part in vect.transformer_list:
            inner = _count_vectorizers(part, offset)
            if inner is None:
                return None
            found += inner
            offset += sum(len(vectorizer.vocabulary_) for vectorizer, _ in inner)
        return found
    return None


def _ngrams(vectorizer: CountVectorizer, words: list[str]) -> Iterator[tuple[str, set[int]]]:
    """Yield the text's n-grams as the vectorizer makes them, each with the positions of the words that it touches."""
    preprocess = vectorizer.build_preprocessor()
    low, high = vectorizer.ngram_range
    pieces: list[tuple[str, int]]  # what n-grams are runs of, and the word that each stands in
    if vectorizer.analyzer == "char_wb":
        for position, word in enumerate(words):
            for gram in vectorizer._char_wb_ngrams(preprocess(word)):
                yield gram, {position}
        return
    if vectorizer.analyzer == "word":
        tokenize, glue = vectorizer.build_tokenizer(), " "
        stop_words = vectorizer.get_stop_words() or ()
        pieces = [(t, p) for p, word in enumerate(words) for t in tokenize(preprocess(word)) if t not in stop_words]
    else:
        glue = ""
        pieces = [(c, p) for p, word in enumerate(words) for c in preprocess(word) + " "][:-1]
    for length in range(low, min(high, len(pieces)) + 1):
        for start in range(len(pieces) - length + 1):
            run = pieces[start : start + length]
            yield glue.join(piece for piece, _ in run), {position for _, position in run}
