"""What needs scikit-learn: compiles a model file, or serves what cannot be compiled. Serving loads it only for that."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import sklearn
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import ComplementNB, MultinomialNB
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.svm import LinearSVC

import model_file
from model_file import Model
from scorer import NOT_COMPILABLE, Array, Block, Judgement, ModelError, Options, Scorer, Terms

LONGEST = 100  # n-gram; "all of them" takes time that grows with the square of a text
TRIAL = ("boneca de pano", "Kit 4 Esponjas p/ Maquiagem, Formato de Coração!", "livro livro de LIVROS", "?")


class NotCompilable(Exception):
    """scikit-learn itself must serve this model; the message says what for."""


class Uncompiled:
    """A model served by scikit-learn itself, with the scorer's methods; `why` names what cannot be compiled."""

    def __init__(self, model: Model, why: str) -> None:
        self.why = why
        self.classes: list[Any] = model.clf.classes_.tolist()
        self._vect, self._clf = model.vect, model.clf
        jobs = [name for name in self._vect.get_params() if name.endswith("n_jobs")]
        self._vect.set_params(**dict.fromkeys(jobs))  # no processes for one text, whatever its author had set

    def best(self, text: str) -> tuple[int, float | None, bool]:
        """Return the position of the text's class, its probability, and whether the model knows any of it."""
        best, _, probabilities, known = self.judge(text)
        return best, None if probabilities is None else float(probabilities[best]), known

    def judge(self, text: str) -> Judgement:
        """Return the text's class with what is known of the others."""
        features = self._vect.transform([text])
        best = self.classes.index(self._clf.predict(features).tolist()[0])
        probabilities = self._clf.predict_proba(features)[0] if hasattr(self._clf, "predict_proba") else None
        scores = self._clf.decision_function(features)[0] if probabilities is None else probabilities
        per_class = [-float(scores), float(scores)] if np.ndim(scores) == 0 else scores.tolist()
        return Judgement(best, per_class, probabilities, features.nnz > 0)

    def shares(self, text: str, position: int) -> None:
        """Return None: what cannot be compiled is not linear, or its features are no words."""


def read(path: str | os.PathLike[str]) -> tuple[Scorer | Uncompiled, dict[str, Any]]:
    """Return what scores texts as the model file does, compiled if it can be, and what to keep of the file beside it.

    Raises ModelError where the file cannot be read, cannot predict, or comes out otherwise than scikit-learn has it.
    """
    model = model_file.load(path)
    about = {"meta": model.meta, "sklearn": model.sklearn, "read_by": sklearn.__version__}
    try:
        _check(model.vect)
        compiled, why = None, ""
        try:
            compiled = compile_model(model)
        except NotCompilable as error:
            why = str(error)
        itself = Uncompiled(model, why)
        for text in TRIAL:
            judgement = itself.judge(text)
            if compiled is None:
                continue
            ours = compiled.judge(text)
            scores = ours.scores if ours.probabilities is None else ours.probabilities
            if not np.allclose(scores, judgement.scores, rtol=1e-6, atol=1e-6):
                raise ModelError(f"compiled, it scores {text!r} otherwise than scikit-learn")
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except model_file.BROKEN as error:
        raise ModelError(
            f"{path}: cannot predict with scikit-learn {sklearn.__version__}, made by {model.sklearn} "
            f"({type(error).__name__}: {error})"
        ) from error
    return compiled or itself, about


def _check(vect: Any) -> None:
    """Raise ModelError where a number in a vectorizer is none that scikit-learn's own compiled code may be given."""
    if isinstance(vect, (FeatureUnion, Pipeline)):
        for _, part in vect.transformer_list if isinstance(vect, FeatureUnion) else vect.steps:
            _check(part)
    elif isinstance(vect, CountVectorizer):
        _terms(vect)
    elif isinstance(vect, HashingVectorizer) and not 0 < vect.n_features < 2**31:
        raise ModelError(f"the vectorizer cannot make {vect.n_features} features")


def _terms(vectorizer: CountVectorizer) -> list[str]:
    """Return the terms in the order of their columns."""
    vectorizer._check_vocabulary()  # makes it of one that was given
    terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
    if [vectorizer.vocabulary_[term] for term in terms] != list(range(len(terms))):
        raise ModelError("the vectorizer's vocabulary does not number its terms from 0")
    return terms


def compile_model(model: Model) -> Scorer:
    """Return the model as arrays; raises NotCompilable, or ModelError where its parts contradict each other."""
    link, weights, intercept = _linear(model.clf)
    blocks: list[Block] = []
    columns = 0
    for vectorizer, transformer, scale in _vectorizers(model.vect):
        block = _block(vectorizer, transformer, scale, weights[columns:])
        blocks.append(block)
        columns += len(block.terms)
    if weights.shape[0] != columns:
        raise ModelError(f"the vectorizer makes {columns} features, and the classifier takes {weights.shape[0]}")
    classes, scores = len(model.clf.classes_), weights.shape[1]
    if intercept.shape != (scores,) or (scores != classes and (scores, classes) != (1, 2)):
        raise ModelError(f"the classifier has {classes} classes, {scores} scores and {intercept.size} intercepts")
    logarithms = isinstance(model.clf, (ComplementNB, MultinomialNB))
    return Scorer(model.clf.classes_.tolist(), link, blocks, intercept, logarithms)


def _linear(clf: Any) -> tuple[str, Array, Array]:
    """Return the link, weights of shape (features, scores) and intercept of shape (scores,) of a linear classifier."""
    kind = type(clf)
    if kind in (ComplementNB, MultinomialNB):
        prior = clf.class_log_prior_ if kind is MultinomialNB or len(clf.classes_) == 1 else np.zeros(len(clf.classes_))
        return "softmax", _as_floats(clf.feature_log_prob_), np.asarray(prior)
    if kind in (LogisticRegression, LogisticRegressionCV):
        link = "softmax" if len(clf.classes_) > 2 else "sigmoid"
    elif kind is SGDClassifier:
        link = {"log_loss": "sigmoid", "modified_huber": "huber"}.get(clf.loss, "none")
    elif kind in (LinearSVC, Perceptron, RidgeClassifier):
        link = "none"
    else:
        raise NotCompilable(kind.__name__)
    coef = np.atleast_2d(clf.coef_)
    intercept = np.broadcast_to(clf.intercept_, len(coef))  # one 0 where there is none
    return link, _as_floats(coef), intercept.copy()


def _as_floats(coef: Any) -> Array:
    """Return coefficients of shape (scores, features) as weights of shape (features, scores), float32 or float64."""
    weights = np.ascontiguousarray(np.transpose(coef))
    return weights if weights.dtype == np.float32 else weights.astype(np.float64)


def _vectorizers(vect: Any, scale: float = 1.0) -> list[tuple[CountVectorizer, TfidfTransformer | None, float]]:
    """Return the vectorizers in the order of their columns, each with what weights its counts, and its own weight."""
    if type(vect) is CountVectorizer:
        return [(vect, None, scale)]
    if type(vect) is TfidfVectorizer:
        return [(vect, vect._tfidf, scale)]
    if type(vect) is Pipeline:
        steps = [step for _, step in vect.steps if step != "passthrough"]
        if len(steps) == 1:
            return _vectorizers(steps[0], scale)
        if [type(step) for step in steps] == [CountVectorizer, TfidfTransformer]:
            return [(steps[0], steps[1], scale)]
    if type(vect) is FeatureUnion:
        weights = vect.transformer_weights or {}
        parts = [(step, weights.get(name, 1.0)) for name, step in vect.transformer_list if step != "drop"]
        return [each for step, weight in parts for each in _vectorizers(step, scale * weight)]
    raise NotCompilable(type(vect).__name__)


def _block(vectorizer: CountVectorizer, transformer: TfidfTransformer | None, scale: float, weights: Array) -> Block:
    """Return the block, of which the first weights are.

    The commonest terms come first: what most texts need lies together, and the processor's caches hold it.
    """
    if vectorizer.input != "content":
        raise ModelError("its vectorizer reads files: a text would name one")
    for option in ("preprocessor", "tokenizer"):
        if getattr(vectorizer, option) is not None:
            raise NotCompilable(option)
    if vectorizer.analyzer not in ("word", "char", "char_wb"):
        raise NotCompilable("analyzer")
    low, high = map(int, vectorizer.ngram_range)
    if not 1 <= low <= high <= LONGEST:  # others scikit-learn takes too, for each analyzer otherwise
        raise NotCompilable("ngram_range")
    if vectorizer.dtype not in (np.int32, np.int64, np.float32, np.float64):  # which other counts are cut to
        raise NotCompilable("dtype")
    if vectorizer.strip_accents not in (None, "ascii", "unicode"):
        raise NotCompilable("strip_accents")
    terms = _terms(vectorizer)
    options = Options(
        analyzer=vectorizer.analyzer,
        ngram_range=(low, high),
        lowercase=bool(vectorizer.lowercase),
        strip_accents=vectorizer.strip_accents,
        token_pattern=vectorizer.token_pattern or "",
        stop_words=sorted(vectorizer.get_stop_words() or ()),
        binary=bool(vectorizer.binary),
        sublinear_tf=bool(transformer is not None and transformer.sublinear_tf),
        norm=transformer.norm if transformer is not None else None,
        dtype="float32" if vectorizer.dtype == np.float32 else "float64",
        scale=float(scale),
    )
    idf = getattr(transformer, "idf_", None)
    if idf is not None and np.shape(idf) != (len(terms),):
        raise ModelError("the vectorizer has not one idf for each of its terms")
    if len(weights) < len(terms):
        raise ModelError(f"the vectorizer makes {len(terms)} features, and the classifier takes {len(weights)}")
    if idf is None or options.dtype == "float32":  # sums of float32 would come out otherwise in another order
        return Block(options, Terms.of(terms), idf, weights[: len(terms)])
    order = np.argsort(idf, kind="stable")
    return Block(options, Terms.of([terms[column] for column in order]), np.asarray(idf)[order], weights[order])


if __name__ == "__main__":  # python compiler.py MODEL COMPILED
    try:
        engine, kept = read(sys.argv[1])
    except ModelError as error:
        sys.exit(str(error))
    if isinstance(engine, Uncompiled):
        sys.exit(NOT_COMPILABLE)
    engine.save(sys.argv[2], kept)
