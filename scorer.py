"""The compiled model: arrays and a vocabulary that score a text as scikit-learn would, without scikit-learn."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
REMEMBERED_WORDS = 20_000  # a block keeps the columns of so many words: sellers' words repeat
LONGEST_REMEMBERED = 30  # characters; longer ones do not repeat, and would let a client fill the memory


class ModelError(RuntimeError):
    """The model file cannot be served; the message says why. gunicorn prints a RuntimeError as one line."""


@dataclass(frozen=True)
class Options:
    """A vectorizer's options, in scikit-learn's names; `scale` is its weight in a FeatureUnion."""

    analyzer: str
    ngram_range: tuple[int, int]
    lowercase: bool
    strip_accents: str | None
    token_pattern: str
    stop_words: list[str]
    binary: bool
    sublinear_tf: bool
    norm: str | None
    dtype: str
    scale: float


class Block:
    """One vectorizer: turns a text into values in its columns of the model."""

    def __init__(self, options: Options, terms: list[str], first: int, idf: Array | None) -> None:
        """Take the terms in the order of their columns, of which `first` is the first, and idf of shape (terms,)."""
        self.options, self.terms, self.first, self.idf = options, terms, first, idf
        # Columns from 1, so that 0 can mean a term that the model does not know.
        self._number = {term: number for number, term in enumerate(terms, 1)}.get
        self._tokens = re.compile(options.token_pattern).findall
        self._stop_words = frozenset(options.stop_words)
        self._remembered: dict[str, Array] = {}

    def columns(self, text: str) -> Array:
        """Return the columns, from 0, of the text's n-grams, sorted, each as often as it occurs; int32."""
        text = self.preprocess(text)
        if self.options.analyzer == "char_wb":
            found = [self._learn(word) for word in text.split()]
            columns = np.concatenate(found) if found else np.empty(0, np.int32)
        else:
            columns = self._known(self._word_ngrams(text) if self.options.analyzer == "word" else self._ngrams(text))
        columns.sort()
        return columns

    def values(self, columns: Array) -> tuple[Array, Array]:
        """Return the distinct columns and the value in each, as the vectorizer's transform has them."""
        if not len(columns):
            return columns, np.empty(0, self.options.dtype)
        last = np.append(np.flatnonzero(columns[1:] != columns[:-1]), len(columns) - 1)  # of each run of equal columns
        distinct = columns[last]
        counts = np.diff(last, prepend=-1).astype(self.options.dtype)
        if self.options.binary:
            counts[:] = 1
        if self.options.sublinear_tf:
            counts = np.log(counts) + 1
        values = counts if self.idf is None else (counts * self.idf[distinct]).astype(self.options.dtype)
        if self.options.norm:
            sizes = values * values if self.options.norm == "l2" else np.abs(values)
            length = sizes.sum(dtype=np.float64)  # of float32 too, as scikit-learn does
            if self.options.norm == "l2":
                length = np.sqrt(length)
            if length:
                values /= length
        return distinct, values * self.options.scale

    def preprocess(self, text: str) -> str:
        """Return the text in lower case and without accents, as the options say."""
        return _preprocess(text, self.options.lowercase, self.options.strip_accents)

    def columns_of_words(self, words: list[str]) -> Iterator[tuple[int, set[int]]]:
        """Yield the column of each n-gram of the text that these words make, with the positions of the words in it."""
        low, high = self.options.ngram_range
        if self.options.analyzer == "char_wb":
            for position, word in enumerate(words):
                for part in self.preprocess(word).split():
                    yield from ((column, {position}) for column in self._learn(part).tolist())
            return
        if self.options.analyzer == "word":
            pieces = [(t, p) for p, word in enumerate(words) for t in self._kept_tokens(self.preprocess(word))]
        else:
            pieces = [(c, p) for p, word in enumerate(words) for c in self.preprocess(word) + " "][:-1]
        glue = " " if self.options.analyzer == "word" else ""
        for length in range(low, high + 1):
            for start in range(len(pieces) - length + 1):
                run = pieces[start : start + length]
                if number := self._number(glue.join(piece for piece, _ in run)):
                    yield number - 1, {position for _, position in run}

    def _known(self, terms: Iterable[str]) -> Array:
        return np.array([number - 1 for number in map(self._number, terms) if number], np.int32)

    def _kept_tokens(self, text: str) -> list[str]:
        tokens = self._tokens(text)
        return [token for token in tokens if token not in self._stop_words] if self._stop_words else tokens

    def _word_ngrams(self, text: str) -> list[str]:
        tokens = self._kept_tokens(text)
        low, high = self.options.ngram_range
        terms = list(tokens) if low == 1 else []
        for length in range(max(low, 2), high + 1):
            terms += map(" ".join, zip(*(tokens[start:] for start in range(length)), strict=False))
        return terms

    def _ngrams(self, text: str) -> list[str]:
        text = re.sub(r"\s\s+", " ", text)
        low, high = self.options.ngram_range
        return [text[i : i + n] for n in range(low, high + 1) for i in range(len(text) - n + 1)]

    def _learn(self, word: str) -> Array:
        """Return the columns of a word's n-grams with a blank at either end, and remember them while there is room."""
        if (columns := self._remembered.get(word)) is None:
            padded = f" {word} "
            low, high = self.options.ngram_range
            # A word that is shorter than an n-gram counts once, whole.
            lengths = range(low, max(low, min(high, len(padded))) + 1)
            columns = self._known(padded[i : i + n] for n in lengths for i in range(max(1, len(padded) - n + 1)))
            if len(word) <= LONGEST_REMEMBERED and len(self._remembered) < REMEMBERED_WORDS:
                self._remembered[word] = columns
        return columns


@lru_cache(maxsize=2)  # the blocks of a model mostly agree on it
def _preprocess(text: str, lowercase: bool, strip_accents: str | None) -> str:
    if lowercase:
        text = text.lower()
    if strip_accents == "ascii":
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    if strip_accents == "unicode" and not text.isascii():
        return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return text


class Judgement(NamedTuple):
    """What a model says of a text; the lists hold one number a class."""

    best: int  # the position of the text's class
    scores: list[float]
    probabilities: list[float] | None  # None where the model gives none
    known: bool  # whether the text has anything that the model knows


class Scorer:
    """A linear model over the blocks: scores are values times weights plus an intercept."""

    def __init__(
        self, classes: list[Any], link: str, blocks: list[Block], weights: Array, intercept: Array, logarithms: bool
    ) -> None:
        """Take weights of shape (columns, scores) and an intercept of shape (scores,).

        There is one score a class, but for two classes it may be one only, above 0 for the second. `link` says how
        scores become probabilities: softmax, sigmoid, huber, or none. Naive Bayes' weights are logarithms.
        """
        self.classes, self.link, self.blocks, self.logarithms = classes, link, blocks, logarithms
        self.weights, self.intercept = weights, intercept
        self._single = {weights.dtype, *(np.dtype(block.options.dtype) for block in blocks)} == {np.dtype(np.float32)}

    def save(self, path: str | os.PathLike[str], about: dict[str, Any]) -> None:
        """Write what `load` reads: arrays only, no pickle. `about` is anything of JSON's to keep with it."""
        header = {
            "about": about,
            "classes": self.classes,
            "link": self.link,
            "logarithms": self.logarithms,
            "blocks": [asdict(block.options) for block in self.blocks],
        }
        arrays = {"header": _encode(json.dumps(header)), "weights": self.weights, "intercept": self.intercept}
        for number, block in enumerate(self.blocks):
            arrays[f"lengths{number}"] = np.array([len(term) for term in block.terms], np.int32)
            arrays[f"terms{number}"] = _encode("".join(block.terms))
            if block.idf is not None:
                arrays[f"idf{number}"] = block.idf
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> tuple[Scorer, dict[str, Any]]:
        """Return the scorer that `save` wrote, and what it was told to keep with it."""
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(_decode(arrays["header"]))
            blocks: list[Block] = []
            first = 0
            for number, options in enumerate(header["blocks"]):
                text, ends = _decode(arrays[f"terms{number}"]), np.cumsum(arrays[f"lengths{number}"]).tolist()
                terms = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
                idf = arrays.get(f"idf{number}")
                options["ngram_range"] = tuple(options["ngram_range"])
                blocks.append(Block(Options(**options), terms, first, idf))
                first += len(terms)
            weights, intercept = arrays["weights"], arrays["intercept"]
        return cls(header["classes"], header["link"], blocks, weights, intercept, header["logarithms"]), header["about"]

    def scores(self, text: str) -> tuple[Array, bool]:
        """Return the scores and whether the text has anything that the model knows."""
        total = np.zeros(len(self.intercept), self.weights.dtype)
        known = False
        for block in self.blocks:
            columns, values = block.values(block.columns(text))
            if not len(columns):
                continue
            known = True
            weights = self.weights[block.first + columns]
            if self._single:  # scikit-learn then adds up in float32, one by one, and so must we to get what it gets
                total += (values[:, None] * weights).sum(axis=0)
            else:
                total = total + values @ weights
        return total + self.intercept, known

    def best(self, text: str) -> int:
        """Return the position of the text's class."""
        return self._best(self.scores(text)[0])

    def judge(self, text: str) -> Judgement:
        """Return the text's class with what is known of the others."""
        scores, known = self.scores(text)
        probabilities = None if self.link == "none" else self._probabilities(scores).tolist()
        per_class = scores.tolist() if len(scores) > 1 else [-scores[0], scores[0]]
        return Judgement(self._best(scores), per_class, probabilities, known)

    def _best(self, scores: Array) -> int:
        return int(scores[0] > 0) if len(scores) == 1 else int(scores.argmax())

    def _probabilities(self, scores: Array) -> Array:
        """Return the probability of each class, as scikit-learn's predict_proba."""
        if self.link == "softmax":
            powers = np.exp(scores - scores.max())
            return np.asarray(powers / powers.sum())
        # (1 + tanh(x / 2)) / 2 is the logistic function, and does not overflow
        each = (np.clip(scores, -1, 1) + 1) / 2 if self.link == "huber" else (1 + np.tanh(scores / 2)) / 2
        if len(each) == 1:
            return np.array([1 - each[0], each[0]])
        total = each.sum()
        return np.asarray(each / total) if total else np.full(len(each), 1 / len(each))

    def shares(self, text: str, position: int) -> dict[str, float]:
        """Return what each word of the text adds to the score of the class at this position.

        A word is what stands between blanks. An n-gram's share, its value times its weight, counts for each word that
        it touches. Naive Bayes' weights are logarithms, all below 0, which say something only against the other
        classes': their mean over the classes is taken off, which changes no probability.
        """
        words = text.split()
        total = dict.fromkeys(words, 0.0)
        for block in self.blocks:
            columns, values = block.values(block.columns(text))
            weights = self.weights[block.first + columns]
            if weights.shape[1] == 1:
                one = weights[:, 0] if position else -weights[:, 0]
            else:
                one = weights[:, position] - weights.mean(axis=1) if self.logarithms else weights[:, position]
            share = dict(zip(columns.tolist(), (values * one).tolist(), strict=True))
            found = [(column, at) for column, at in block.columns_of_words(words) if column in share]
            times: dict[int, int] = {}
            for column, _ in found:
                times[column] = times.get(column, 0) + 1
            for column, at in found:
                for word in at:
                    total[words[word]] += share[column] / times[column]
        return total


def _encode(text: str) -> Array:
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def _decode(data: Array) -> str:
    return data.tobytes().decode("utf-8", "surrogatepass")
