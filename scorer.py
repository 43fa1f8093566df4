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
from itertools import pairwise, repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TABLE_WORDS = 30_000  # what a word adds to the scores is kept for so many words, the commonest; some 7 MB
LATIN_ACCENTS = re.compile("[\u0300-\u036f]")  # all of them combine; mostly nothing but letters of ASCII is left
LATE_WORDS = 16_384  # of so many others at most the columns; some 5 MB in each worker
LATE_WORD = 30  # characters; longer ones do not come again, and would let a client fill the memory
ROLL, MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # any odd numbers of 64 bits, well mixed
ODD = np.uint64(1)
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


class Terms:
    """A vectorizer's terms in the order of their columns, in one text: a string for each takes ten times the memory."""

    def __init__(self, text: str, lengths: Array) -> None:
        """Take all terms, one after another, and the length of each."""
        self.text, self.lengths = text, lengths
        self.starts = lengths.cumsum() - lengths

    @classmethod
    def of(cls, terms: list[str]) -> Terms:
        return cls("".join(terms), np.array([*map(len, terms)], np.int32))

    def __len__(self) -> int:
        return len(self.lengths)

    def columns(self, wanted: Array | slice = slice(None)) -> dict[str, int]:
        """Return the columns of the terms, or of those that are wanted: all of it is in the columns' order."""
        columns = np.arange(len(self))[wanted]
        starts = self.starts[columns]
        ends = starts + self.lengths[columns]
        each = zip(columns.tolist(), starts.tolist(), ends.tolist(), strict=True)
        return {self.text[start:end]: column for column, start, end in each}


class Letters:
    """Finds all n-grams of letters of a text at once: by hashes, which roll on from one length to the next.

    An n-gram that is not the model's has the hash of one that is, and is taken for it, once in 10 ** 14.
    """

    def __init__(self, terms: Terms, ngram_range: tuple[int, int]) -> None:
        self._low, self._high = ngram_range
        codes = _codes(terms.text)
        columns: list[Array] = [np.empty(0, np.int32)]
        hashed: list[Array] = [np.empty(0, np.uint64)]
        for length in range(self._low, self._high + 1):
            found = np.flatnonzero(terms.lengths == length)
            columns.append(found)
            letters = codes[terms.starts[found, None] + np.arange(length)]
            hashed.append(self._hashes(letters.ravel())[length - self._low][::length])
        hashes = np.concatenate(hashed)
        column = np.concatenate(columns)
        # A table, a quarter to a half full. Where two have one place the second is in a list, sorted by hash.
        size = max(2 * len(hashes), 1).bit_length()
        self._shift = np.uint64(64 - size)
        self._hash = np.zeros(2**size, np.uint64)  # 0 is a free place
        self._column = np.zeros(2**size, np.int32)
        place = self._place(hashes)
        self._hash[place], self._column[place] = hashes, column
        second = np.flatnonzero(self._hash[place] != hashes)
        second = second[hashes[second].argsort()]
        self._second_hash = np.append(hashes[second], np.uint64(2**64 - 1))
        self._second_column = np.append(column[second], 0)

    def of_text(self, text: str) -> tuple[Array, Array]:
        """Return the columns of a text's n-grams, each as often as it occurs, and the letter at which each begins."""
        return self._known(_codes(text))

    def of_words(self, words: list[str]) -> tuple[Array, Array]:
        """Return the columns of the n-grams of words with a blank at either end, and the number of each one's word."""
        codes = _codes("\n".join(f" {word} " for word in words))
        between = codes == ord("\n")
        codes[between] = NO_LETTER  # which no word has, nor any of the model's n-grams
        columns, begins = self._known(codes)
        return columns, between.cumsum().take(begins)

    def _known(self, codes: Array) -> tuple[Array, Array]:
        of_length = self._hashes(codes)
        hashes = np.concatenate(of_length)
        begins = np.concatenate([np.arange(len(each)) for each in of_length])
        place = self._place(hashes)
        there = self._hash.take(place)
        first = there == hashes
        other = np.flatnonzero(~first & (there != 0))
        at = self._second_hash.searchsorted(hashes.take(other))
        second = self._second_hash.take(at) == hashes.take(other)
        columns = self._column.take(place[first]), self._second_column.take(at[second])
        return np.concatenate(columns), np.append(begins[first], begins.take(other[second]))

    def _hashes(self, codes: Array) -> list[Array]:
        """Return for each length the hashes of the n-grams that begin at each letter; none is 0 nor the last number."""
        rolled = np.ones(len(codes), np.uint64)
        hashes = []
        for length in range(1, self._high + 1):
            last = codes[length - 1 :]
            rolled = rolled[: len(last)] * ROLL + last
            if length >= self._low:
                hashes.append(rolled * MIX | ODD)
        return hashes

    def _place(self, hashes: Array) -> Array:
        return (hashes >> self._shift).astype(np.intp)


class Block:
    """One vectorizer: turns a text into values in its columns of the model."""

    def __init__(self, options: Options, terms: Terms, first: int, idf: Array | None) -> None:
        """Take the terms, the column of the first of them, and idf of shape (terms,)."""
        self.options, self.terms, self.first, self.idf = options, terms, first, idf
        letters = options.analyzer != "word"
        self._letters = Letters(terms, options.ngram_range) if letters else None
        # Of letters only what is shorter than an n-gram, as a short word may be.
        self.column = terms.columns(terms.lengths < options.ngram_range[0] if letters else slice(None))
        self._tokens = re.compile(RUNS_OF_LETTERS.get(options.token_pattern, options.token_pattern)).findall
        self._stop_words = frozenset(options.stop_words)

    def columns(self, text: str) -> Array:
        """Return the columns, from 0, of the text's n-grams, sorted, each as often as it occurs; int32."""
        text = self.preprocess(text)
        if self.options.analyzer == "char_wb":
            found, _ = self.within_words(text.split())
        elif self._letters:
            found, _ = self._letters.of_text(re.sub(r"\s\s+", " ", text))
        else:
            found = np.array(self._of_tokens(text, self.options.ngram_range[0]), np.intp)
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
        if self.options.analyzer == "char_wb":
            pieces = [(piece, p) for p, word in enumerate(words) for piece in self.preprocess(word).split()]
            columns, which = self.within_words([piece for piece, _ in pieces])
            yield from zip(columns.tolist(), ({pieces[n][1]} for n in which.tolist()), strict=True)
        elif self._letters:
            pieces = [(letter, p) for p, word in enumerate(words) for letter in self.preprocess(word) + " "][:-1]
            columns, begins = self._letters.of_text("".join(letter for letter, _ in pieces))
            ends = begins + self.terms.lengths[columns]
            for column, begin, end in zip(columns.tolist(), begins.tolist(), ends.tolist(), strict=True):
                yield column, {position for _, position in pieces[begin:end]}
        else:
            pieces = [(token, p) for p, word in enumerate(words) for token in self._kept_tokens(self.preprocess(word))]
            low, high = self.options.ngram_range
            for length in range(low, high + 1):
                for start in range(len(pieces) - length + 1):
                    run = pieces[start : start + length]
                    for column in self._known([" ".join(piece for piece, _ in run)]):
                        yield column, {position for _, position in run}

    def within_words(self, words: list[str]) -> tuple[Array, Array]:
        """Return the columns that each word of a preprocessed text has by itself, and the number of each one's word."""
        columns, which = np.empty(0, np.intp), np.empty(0, np.intp)
        low = self.options.ngram_range[0]
        whole: Iterable[tuple[str, int]] = ()
        if self._letters:
            columns, which = self._letters.of_words(words)
            # A word that is shorter than an n-gram counts once, whole.
            whole = ((f" {word} ", n) for n, word in enumerate(words) if len(word) + 2 < low)
        elif low == 1:
            whole = ((token, n) for n, word in enumerate(words) for token in self._kept_tokens(word))
        if found := [(column, n) for term, n in whole if (column := self.column.get(term)) is not None]:
            more, of = np.array(found).T
            return np.append(columns, more), np.append(which, of)
        return columns, which

    def over_words(self, text: str) -> list[int]:
        """Return the columns of the n-grams over several words of a preprocessed text."""
        return self._of_tokens(text, 2) if self.options.analyzer == "word" else []

    def _of_tokens(self, text: str, low: int) -> list[int]:
        """Return the columns of the n-grams of at least so many tokens."""
        least, most = self.options.ngram_range
        if max(low, least) > most:
            return []
        tokens = self._kept_tokens(text)
        return [n for length in range(max(low, least), most + 1) for n in self._known(_runs(tokens, length))]

    def _known(self, terms: Iterable[str]) -> list[int]:
        return [column for column in map(self.column.get, terms) if column is not None]

    def _kept_tokens(self, text: str) -> list[str]:
        tokens = self._tokens(text)
        return [token for token in tokens if token not in self._stop_words] if self._stop_words else tokens

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


def _runs(tokens: list[str], length: int) -> Iterable[str]:
    """Return the n-grams of a length."""
    return tokens if length == 1 else map(" ".join, zip(*(tokens[start:] for start in range(length)), strict=False))


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
    is kept for the words of the model's vocabulary, which all workers share. Of others that came lately only the
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
        self._late: dict[str, bytes] = {}
        words = _vocabulary(blocks)
        self._row = {word: row for row, word in enumerate(words, 1)}.get
        self.table = table or self._table(words)
        # One string: to read a row touches no object's reference count, so its page stays shared by the workers.
        self._of_rows = self.table.columns.tobytes()
        self._ends = array("I", [0, *(self.table.counts.cumsum() * self.table.columns.itemsize).tolist()])

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
        over = [block.first + column for block in self._blocks for column in block.over_words(text)]
        late = b"".join([*self._of_late(unknown), array(self._integer, over).tobytes()])
        data, ends = self._of_rows, self._ends
        at = np.frombuffer(b"".join([data[ends[row] : ends[row + 1]] for row in rows]) + late, self._integer).astype(
            np.intp
        )
        added = self.table.added.take(rows, axis=0).sum(axis=0, dtype=np.float64)
        if late:
            added += self._added(at[-(len(late) // self.table.columns.itemsize) :])
        return (self._scales / self._lengths(at)) @ added, len(at) > 0

    def _table(self, words: list[str]) -> Table:
        """Return what these words add, after a first row for none of them."""
        columns = [np.frombuffer(data, self._integer) for data in [b"", *self._columns(words)]]
        added = np.array([self._added(at) for at in columns], self._weights.dtype)
        return Table(added, np.concatenate(columns), np.array([*map(len, columns)]))

    def _of_late(self, words: list[str]) -> list[bytes]:
        """Return the columns of words that are not in the table: of those that did not come lately, found at once."""
        late = self._late
        known = {word: columns for word in words if (columns := late.get(word)) is not None}
        if new := [*dict.fromkeys(word for word in words if word not in known)]:
            found = dict(zip(new, self._columns(new), strict=True))
            known |= found
            if len(late) + len(found) > LATE_WORDS:
                self._late = late = {}  # not one by one, which costs more than finding those that come again
            late |= {word: columns for word, columns in found.items() if len(word) <= LATE_WORD}
        return [known[word] for word in words]

    def _columns(self, words: list[str]) -> list[bytes]:
        """Return the model's columns of each of these words, none of which has a blank in it."""
        found = [(block.first, *block.within_words(words)) for block in self._blocks]
        columns = np.concatenate([first + columns for first, columns, _ in found])
        which = np.concatenate([which for _, _, which in found])
        data = columns[which.argsort(kind="stable")].astype(self._integer).tobytes()
        ends = np.bincount(which, minlength=len(words)).cumsum() * np.dtype(self._integer).itemsize
        return [data[start:end] for start, end in pairwise([0, *ends.tolist()])]

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
            arrays[f"lengths{number}"] = block.terms.lengths
            arrays[f"terms{number}"] = _encode(block.terms.text)
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
                terms = Terms(_decode(arrays[f"terms{number}"]), arrays[f"lengths{number}"])
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
            found |= {term: value for term, value in zip(block.column, idf, strict=True) if term.split() == [term]}
    return sorted(found, key=found.__getitem__)[:TABLE_WORDS]


def _codes(text: str) -> Array:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)


def _encode(text: str) -> Array:
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def _decode(data: Array) -> str:
    return data.tobytes().decode("utf-8", "surrogatepass")
