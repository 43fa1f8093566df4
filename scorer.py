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
REMEMBERED_WORDS = (
    30_000  # what a word adds to the scores is kept for so many, 1 KB each, in each worker: sellers' words repeat
)
LONGEST_REMEMBERED = 30  # characters; longer ones do not repeat, and would let a client fill the memory
# Analyzers and patterns whose tokens never reach over a blank, so that a text's tokens are its words' tokens.
WORDWISE = {("word", r"(?u)\b\w\w+\b"), ("word", r"(?u)\b\w+\b")}


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
        self.wordwise = (
            not (options.binary or options.sublinear_tf)
            and options.dtype == "float64"
            and (options.analyzer == "char_wb" or (options.analyzer, options.token_pattern) in WORDWISE)
        )

    def columns(self, text: str) -> Array:
        """Return the columns, from 0, of the text's n-grams, sorted, each as often as it occurs; int32."""
        text = self.preprocess(text)
        if self.options.analyzer == "char_wb":
            columns = self._known(gram for word in text.split() for gram in self._word_letters(word))
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
                yield from ((column, {position}) for column in self.of_word(word)[0].tolist())
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
            terms += _runs(tokens, length)
        return terms

    def _ngrams(self, text: str) -> list[str]:
        text = re.sub(r"\s\s+", " ", text)
        low, high = self.options.ngram_range
        return [text[i : i + n] for n in range(low, high + 1) for i in range(len(text) - n + 1)]

    def _word_letters(self, word: str) -> Iterator[str]:
        """Yield the n-grams of a word with a blank at either end; one shorter than an n-gram counts once, whole."""
        padded = f" {word} "
        low, high = self.options.ngram_range
        for length in range(low, max(low, min(high, len(padded))) + 1):
            for start in range(max(1, len(padded) - length + 1)):
                yield padded[start : start + length]

    def of_word(self, word: str) -> tuple[Array, list[str]]:
        """Return the columns that a word has by itself, and its tokens for the columns over several words."""
        text = self.preprocess(word)
        if self.options.analyzer == "char_wb":
            return self._known(gram for part in text.split() for gram in self._word_letters(part)), []
        tokens = self._kept_tokens(text)
        return self._known(tokens if self.options.ngram_range[0] == 1 else ()), tokens

    def of_tokens(self, tokens: list[str]) -> Array:
        """Return the columns of the n-grams over several of a text's tokens."""
        low, high = self.options.ngram_range
        return self._known(gram for length in range(max(low, 2), high + 1) for gram in _runs(tokens, length))


def _runs(tokens: list[str], length: int) -> Iterator[str]:
    """Return the n-grams of a length."""
    return map(" ".join, zip(*(tokens[start:] for start in range(length)), strict=False))


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


class WordMemory:
    """Adds a text's scores up word by word, keeping what each word adds: for blocks that count n-grams as they occur.

    A block's score is the sum over its n-grams of idf times weights, divided by the length of the values. That
    sum falls into a part for each word and n-grams over several; for the length alone all columns must be counted.
    """

    def __init__(self, blocks: list[Block], weights: Array) -> None:
        self.blocks = blocks
        self._idf = np.concatenate(
            [np.ones(len(b.terms)) if b.idf is None else b.idf.astype(np.float64) for b in blocks]
        )
        self._weights = weights
        self._edges = np.array([block.first for block in blocks[1:]])
        self._numbers: dict[str, int] = {}
        self._columns: list[Array] = []
        self._tokens: list[list[list[str]]] = []  # of each word, of each block
        self._sums = np.zeros((REMEMBERED_WORDS, len(blocks), weights.shape[1]))

    def sums(self, text: str) -> tuple[Array, bool] | None:
        """Return the scores without the intercept, and whether anything is known; None where a word is too long."""
        words = text.split()
        if len(self._numbers) + len(words) > REMEMBERED_WORDS:
            self._numbers, self._columns, self._tokens = {}, [], []
        numbers = [self._numbers.get(word, -1) for word in words]
        if -1 in numbers:
            if len(max(words, key=len)) > LONGEST_REMEMBERED or len(words) > REMEMBERED_WORDS:
                return None
            numbers = [self._number(word) for word in words]
        total = self._sums[numbers].sum(axis=0)
        columns = [self._columns[number] for number in numbers]
        for position, block in enumerate(self.blocks):
            if block.options.analyzer == "word" and block.options.ngram_range[1] > 1:
                tokens = [token for number in numbers for token in self._tokens[number][position]]
                over = block.of_tokens(tokens) + block.first
                total[position] += self._idf[over] @ self._weights[over]
                columns.append(over)
        found = np.concatenate(columns) if columns else np.empty(0, np.int32)
        if not len(found):
            return total.sum(axis=0), False
        lengths = self._lengths(found)
        scales = [block.options.scale / length for block, length in zip(self.blocks, lengths, strict=True)]
        return np.array(scales) @ total, True

    def _number(self, word: str) -> int:
        """Return the word's place in the memory, where it is put first if it is new."""
        if (number := self._numbers.get(word)) is None:
            number = self._numbers[word] = len(self._numbers)
            parts = [block.of_word(word) for block in self.blocks]
            of_blocks = [columns + block.first for block, (columns, _) in zip(self.blocks, parts, strict=True)]
            self._columns.append(np.concatenate(of_blocks))
            self._tokens.append([tokens for _, tokens in parts])
            for position, columns in enumerate(of_blocks):
                self._sums[number, position] = self._idf[columns] @ self._weights[columns]
        return number

    def _lengths(self, columns: Array) -> list[float]:
        """Return the length of each block's values, by its norm; 1 where there is none."""
        columns.sort()
        last = np.flatnonzero(columns[1:] != columns[:-1])  # of each run of equal columns, but for the last run
        ends = np.empty(len(last) + 1, np.int64)
        ends[:-1], ends[-1] = last, len(columns) - 1
        distinct = columns[ends]
        ends[1:] -= ends[:-1].copy()  # now the lengths of the runs: how often each column occurs
        ends[0] += 1
        values = ends * self._idf[distinct]
        edges = [0, *distinct.searchsorted(self._edges).tolist(), len(values)]
        lengths = []
        for block, start, end in zip(self.blocks, edges, edges[1:], strict=False):
            part = values[start:end]
            if block.options.norm == "l2":
                lengths.append(float(part @ part) ** 0.5 or 1.0)
            else:
                lengths.append(float(np.abs(part).sum()) or 1.0 if block.options.norm == "l1" else 1.0)
        return lengths


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
        self._by_word = WordMemory(blocks, weights) if all(block.wordwise for block in blocks) else None
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
        if self._by_word and (sums := self._by_word.sums(text)):
            return sums[0] + self.intercept, sums[1]
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
        # The logistic function, which must be right far below 0 too: there it is only the others' ratios that count.
        each = (np.clip(scores, -1, 1) + 1) / 2 if self.link == "huber" else np.exp(-np.logaddexp(0, -scores))
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
