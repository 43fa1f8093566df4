"""The compiled model: arrays and a vocabulary that score a text as scikit-learn would, without scikit-learn."""

from __future__ import annotations

import json
import os
import re
import threading
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TABLE_WORDS = 30_000  # what a word adds to the scores is kept for so many words, the commonest; some 7 MB
LATIN_ACCENTS = re.compile("[\u0300-\u036f]")  # all of them combine; mostly nothing but letters of ASCII is left
LATE_WORDS = 16_384  # of so many others, those that came last, the columns; some 5 MB in each worker
LATE_WORD = 30  # characters; longer ones do not come again, and would let a client fill the memory
MANY_LETTERS = 500  # the columns of words of more in all are found at once and not kept
ROLL, MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # any odd numbers of 64 bits, well mixed
NO_LETTER = 0x110000  # the first number behind Unicode's
ONCE = np.float32(1)  # of the type of the counts, which makes np.add.at fast; they are exact to 2 ** 24
# Patterns of tokens that never reach over a blank, and what finds the same ones faster.
RUNS_OF_LETTERS = {r"(?u)\b\w\w+\b": r"\w\w+", r"(?u)\b\w+\b": r"\w+"}


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


class Letters:
    """Finds all n-grams of letters of a text at once: by hashes, which roll on from one length to the next.

    An n-gram that is not the model's has the hash of one that is, and is taken for it, once in 10 ** 14.
    """

    def __init__(self, terms: list[str], ngram_range: tuple[int, int]) -> None:
        self._low, self._high = ngram_range
        columns: list[int] = []
        hashed: list[Array] = [np.empty(0, np.uint64)]
        for length in range(self._low, self._high + 1):
            found = [column for column, term in enumerate(terms) if len(term) == length]
            columns += found
            codes = _codes("".join(terms[column] for column in found))
            hashed.append(self._hashes(codes)[length - self._low][::length])
        hashes = np.concatenate(hashed)
        order = np.argsort(hashes)
        numbers = np.arange(len(order))
        # An open-addressed table, a quarter to a half full: each at its place or the first free one behind.
        size = max(2 * len(order), 1).bit_length()
        self._shift = np.uint64(64 - size)
        place = np.maximum.accumulate(self._place(hashes[order]) - numbers) + numbers
        self._hash = np.zeros(max(2**size, place.max(initial=0) + 1) + 1, np.uint64)  # 0 is a free place
        self._column = np.zeros(len(self._hash), np.int32)
        self._hash[place] = hashes[order]
        self._column[place] = np.array(columns, np.int32)[order]

    def of_text(self, text: str) -> Array:
        """Return the columns of a text's n-grams, each as often as it occurs."""
        return self._known(_codes(text))

    def of_words(self, words: list[str]) -> Array:
        """Return the columns of the n-grams of each of these words with a blank at either end."""
        codes = _codes("\n".join(f" {word} " for word in words))
        codes[codes == ord("\n")] = NO_LETTER  # which no word has, nor any of the model's n-grams
        return self._known(codes)

    def _known(self, codes: Array) -> Array:
        hashes = np.concatenate(self._hashes(codes))
        place = self._place(hashes)
        found = []
        while len(place):
            there = self._hash.take(place)
            same = there == hashes
            found.append(self._column.take(place[same]))
            other = ~same & (there != 0)
            place, hashes = place[other] + 1, hashes[other]
        return np.concatenate(found) if found else np.empty(0, np.int32)

    def _hashes(self, codes: Array) -> list[Array]:
        """Return for each length the hashes of the n-grams that begin at each letter; none is 0."""
        rolled = np.ones(len(codes), np.uint64)
        hashes = []
        for length in range(1, self._high + 1):
            last = codes[length - 1 :]
            rolled = rolled[: len(last)] * ROLL + last
            hashes.append(rolled * MIX | np.uint64(1))
        return hashes[self._low - 1 :]

    def _place(self, hashes: Array) -> Array:
        return (hashes >> self._shift).astype(np.intp)


class Block:
    """One vectorizer: turns a text into values in its columns of the model."""

    def __init__(self, options: Options, terms: list[str], first: int, idf: Array | None) -> None:
        """Take the terms in the order of their columns, of which `first` is the first, and idf of shape (terms,)."""
        self.options, self.terms, self.first, self.idf = options, terms, first, idf
        self._column = {term: column for column, term in enumerate(terms)}.get
        self._tokens = re.compile(RUNS_OF_LETTERS.get(options.token_pattern, options.token_pattern)).findall
        self._stop_words = frozenset(options.stop_words)
        self._letters = Letters(terms, options.ngram_range) if options.analyzer != "word" else None

    def columns(self, text: str) -> Array:
        """Return the columns, from 0, of the text's n-grams, sorted, each as often as it occurs; int32."""
        text = self.preprocess(text)
        if self._letters and self.options.analyzer == "char":
            found = self._letters.of_text(re.sub(r"\s\s+", " ", text))
        else:
            found = np.append(self.within_words(text.split()), self.over_words(text))
        columns = found.astype(np.int32)
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
                columns = self.within_words(self.preprocess(word).split())
                yield from ((column, {position}) for column in columns)
            return
        if self.options.analyzer == "word":
            pieces = [(t, p) for p, word in enumerate(words) for t in self._kept_tokens(self.preprocess(word))]
        else:
            pieces = [(c, p) for p, word in enumerate(words) for c in self.preprocess(word) + " "][:-1]
        glue = " " if self.options.analyzer == "word" else ""
        for length in range(low, high + 1):
            for start in range(len(pieces) - length + 1):
                run = pieces[start : start + length]
                if (column := self._column(glue.join(piece for piece, _ in run))) is not None:
                    yield column, {position for _, position in run}

    def within_words(self, words: list[str]) -> list[int] | Array:
        """Return the columns that each of a preprocessed text's words has by itself."""
        if self._letters and self.options.analyzer == "char_wb":
            if not _many(words):
                return [column for word in words for column in self._of_letters(word)]
            shorter = [f" {word} " for word in words if len(word) + 2 < self.options.ngram_range[0]]
            return np.append(self._letters.of_words(words), self._known(shorter))
        if self.options.analyzer == "char" or self.options.ngram_range[0] > 1:
            return []
        return self._known(self._kept_tokens(" ".join(words)))

    def over_words(self, text: str) -> list[int]:
        """Return the columns of the n-grams over several words of a preprocessed text."""
        low, high = self.options.ngram_range
        if self.options.analyzer == "char_wb" or high == 1:
            return []
        tokens = self._kept_tokens(text)
        return [n for length in range(max(low, 2), high + 1) for n in self._known(_runs(tokens, length))]

    def _known(self, terms: Iterable[str]) -> list[int]:
        return [column for column in map(self._column, terms) if column is not None]

    def _kept_tokens(self, text: str) -> list[str]:
        tokens = self._tokens(text)
        return [token for token in tokens if token not in self._stop_words] if self._stop_words else tokens

    def _of_letters(self, word: str) -> list[int]:
        """Return the columns of the n-grams of a word with a blank at either end.

        A word shorter than an n-gram counts once, whole.
        """
        padded = f" {word} "
        low, high = self.options.ngram_range
        size = len(padded)
        if size <= low:
            return self._known([padded])
        return self._known([padded[i : i + n] for n in range(low, min(high, size) + 1) for i in range(size - n + 1)])

    def adds_up_by_words(self) -> bool:
        """Tell whether the values, but for those of n-grams over words, are sums over the words; see WordSums."""
        return (
            not (self.options.binary or self.options.sublinear_tf)
            and self.options.dtype == "float64"
            and (self.idf is None or bool((self.idf >= 0).all()))
            and (
                self.options.analyzer == "char_wb"
                or (self.options.analyzer == "word" and self.options.token_pattern in RUNS_OF_LETTERS)
            )
        )


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
        text = LATIN_ACCENTS.sub("", unicodedata.normalize("NFKD", text))
        if not text.isascii():
            return "".join(c for c in text if not unicodedata.combining(c))
    return text


class Judgement(NamedTuple):
    """What a model says of a text; the arrays hold one number a class."""

    best: int  # the position of the text's class
    scores: Array
    probabilities: Array | None  # None where the model gives none
    known: bool  # whether the text has anything that the model knows


class Table(NamedTuple):
    """What each of some words adds to the scores, (words, blocks, scores), and all their columns, word after word.

    The first row is no word's, and 0. Sums have the weights' type: float32 moves a probability by up to 1e-7, a tenth
    of what it may differ from scikit-learn's by.
    """

    added: Array
    columns: Array
    counts: Array  # of columns, (words,)


class WordSums:
    """Adds a text's scores up word by word: for n-grams counted as they occur, by idf, and divided by their length.

    Each n-gram within a word is that word's own, so what a word adds before that division is the same in every text. It
    is kept for the words of the model's vocabulary, which all workers share. Of the others that came last only the
    columns are kept, and what those of a text add is found at once.
    """

    def __init__(self, blocks: list[Block], weights: Array, table: Table | None = None) -> None:
        """Take what each word of the vocabulary adds; without it, that is found now."""
        self._blocks, self._weights = blocks, weights
        self._norm = blocks[0].options.norm
        self._scales = np.array([block.options.scale for block in blocks])
        self._idf = np.concatenate([np.ones(len(b.terms)) if b.idf is None else b.idf.astype("f8") for b in blocks])
        self._sizes = self._idf**2 if self._norm == "l2" else self._idf
        self._block = np.repeat(np.arange(len(blocks), dtype=np.int8), [len(block.terms) for block in blocks])
        self._times = np.zeros(len(self._idf), np.float32)  # that a text has each column, while its lengths are found
        self._lock = threading.Lock()  # for that
        self._integer = "H" if len(self._idf) <= 2**16 else "I"  # holds a column
        self._late_word = lru_cache(LATE_WORDS)(lambda word: self._columns([word]))
        words = _vocabulary(blocks)
        self._row = {word: row for row, word in enumerate(words, 1)}.get
        self.table = table or self._table(words)
        ends = (self.table.counts.cumsum() * self.table.columns.itemsize).tolist()
        data = self.table.columns.tobytes()
        self._of_row = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)].__getitem__

    @staticmethod
    def fits(blocks: list[Block], weights: Array) -> bool:
        """Tell whether the scores of these blocks add up by words, and letters make that worth while.

        Infinite weights, as naive Bayes has with alpha=0, do not: a block's infinity times another's 0 is no number.
        """
        analyzers = {block.options.analyzer for block in blocks}
        common = {(block.options.lowercase, block.options.strip_accents, block.options.norm) for block in blocks}
        return (
            "char_wb" in analyzers
            and len(common) == 1
            and all(block.adds_up_by_words() for block in blocks)
            and bool(np.isfinite(weights).all())
        )

    def scores(self, text: str) -> tuple[Array, bool]:
        """Return the scores without the intercept, and whether anything in the text is known."""
        text = self._blocks[0].preprocess(text)
        words = text.split()
        if not words:
            return np.zeros(self._weights.shape[1]), False
        rows = [*map(self._row, words, repeat(0))]
        unknown = [word for word, row in zip(words, rows, strict=True) if not row]
        if _many(unknown):
            others = [self._columns(unknown)]
        else:
            others = [self._late_word(word) if len(word) <= LATE_WORD else self._columns([word]) for word in unknown]
        others.append(self._bytes(block.first + column for block in self._blocks for column in block.over_words(text)))
        late = b"".join(others)
        at = np.frombuffer(b"".join(map(self._of_row, rows)) + late, self._integer).astype(np.intp)
        added = self.table.added.take(rows, axis=0).sum(axis=0, dtype=np.float64)
        if late:
            added += self._added(at[-(len(late) // self.table.columns.itemsize) :])
        return (self._scales / self._lengths(at)) @ added, len(at) > 0

    def _table(self, words: list[str]) -> Table:
        """Return what these words add, after a first row for none of them."""
        columns = [np.empty(0, self._integer), *(np.frombuffer(self._columns([word]), self._integer) for word in words)]
        added = np.array([self._added(at) for at in columns], self._weights.dtype)
        return Table(added, np.concatenate(columns), np.array([*map(len, columns)]))

    def _columns(self, words: list[str]) -> bytes:
        """Return the model's columns of words, each without a blank in it."""
        if _many(words):
            found = [block.first + np.array(block.within_words(words), np.intp) for block in self._blocks]
            return np.concatenate(found).astype(self._integer).tobytes()
        return self._bytes(block.first + column for block in self._blocks for column in block.within_words(words))

    def _bytes(self, columns: Iterable[int]) -> bytes:
        return array(self._integer, columns).tobytes()

    def _added(self, at: Array) -> Array:
        """Return what these columns add, (blocks, scores)."""
        of_block = self._block.take(at) == np.arange(len(self._blocks))[:, None]
        return np.asarray((self._idf.take(at) * of_block) @ self._weights.take(at, axis=0))

    def _lengths(self, at: Array) -> Array | float:
        """Return by what to divide each block's values, which are in these columns, each as often as it occurs."""
        if self._norm is None:
            return 1.0
        sizes = self._sizes.take(at)
        if self._norm == "l2":  # a column that occurs n times has n² times its size: n for each time
            with self._lock:
                try:
                    np.add.at(self._times, at, ONCE)
                    sizes *= self._times.take(at)
                finally:
                    self._times[at] = 0
        lengths = np.bincount(self._block.take(at), sizes, len(self._blocks))
        lengths[lengths == 0] = 1
        return np.sqrt(lengths) if self._norm == "l2" else lengths


class Scorer:
    """A linear model over the blocks: scores are values times weights plus an intercept."""

    def __init__(
        self,
        classes: list[Any],
        link: str,
        blocks: list[Block],
        weights: Array,
        intercept: Array,
        logarithms: bool,
        table: Table | None = None,
    ) -> None:
        """Take weights of shape (columns, scores), an intercept of shape (scores,), and WordSums' table.

        There is one score a class, but for two classes it may be one only, above 0 for the second. `link` says how
        scores become probabilities: softmax, sigmoid, huber, or none. Naive Bayes' weights are logarithms.
        """
        self.classes, self.link, self.blocks, self.logarithms = classes, link, blocks, logarithms
        self.weights, self.intercept = weights, intercept
        self._by_words = WordSums(blocks, weights, table) if WordSums.fits(blocks, weights) else None
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
        if self._by_words:
            arrays |= {f"table_{name}": array for name, array in self._by_words.table._asdict().items()}
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
            made = "table_added" in arrays
            table = Table(*(arrays[f"table_{name}"] for name in Table._fields)) if made else None
            scorer = cls(
                header["classes"],
                header["link"],
                blocks,
                arrays["weights"],
                arrays["intercept"],
                header["logarithms"],
                table,
            )
        return scorer, header["about"]

    def scores(self, text: str) -> tuple[Array, bool]:
        """Return the scores and whether the text has anything that the model knows."""
        if self._by_words:
            sums, known = self._by_words.scores(text)
            return sums + self.intercept, known
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
        probabilities = None if self.link == "none" else self._probabilities(scores)
        per_class = scores if len(scores) > 1 else np.array([-scores[0], scores[0]])
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


def _vocabulary(blocks: list[Block]) -> list[str]:
    """Return the single words among the blocks' terms, by idf the commonest, as many as are worth keeping."""
    found: dict[str, float] = {}
    for block in blocks:
        if block.options.analyzer == "word":
            idf = np.ones(len(block.terms)) if block.idf is None else block.idf
            found |= {term: value for term, value in zip(block.terms, idf, strict=True) if term.split() == [term]}
    return sorted(found, key=found.__getitem__)[:TABLE_WORDS]


def _many(words: list[str]) -> bool:
    return sum(map(len, words)) > MANY_LETTERS


def _codes(text: str) -> Array:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)


def _encode(text: str) -> Array:
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def _decode(data: Array) -> str:
    return data.tobytes().decode("utf-8", "surrogatepass")
