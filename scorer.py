"""The compiled model: arrays and a vocabulary that score a text as scikit-learn would, without scikit-learn."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TABLE_WORDS = (
    30_000  # what a word adds to the scores is kept for so many words, the commonest; for 28 classes up to 7 MB
)
LATIN_ACCENTS = re.compile("[\u0300-\u034e\u0350-\u036f]")  # all of them combine; mostly only ASCII is left
LATE_WORDS = 16_384  # and for so many others that came lately; up to 7 MB in each worker
LATE_WORD = 30  # characters; longer ones do not come again, and would let a client fill the memory
ROLL, MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # any odd numbers of 64 bits, well mixed
ODD = np.uint64(1)
NO_LETTER = 0x110000  # the first number behind Unicode's
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

    @property
    def starts(self) -> Array:
        """Where in the text each begins."""
        return np.asarray(self.lengths.cumsum() - self.lengths)

    @classmethod
    def of(cls, terms: list[str]) -> Terms:
        return cls("".join(terms), np.array([*map(len, terms)], np.int32))

    def __len__(self) -> int:
        return len(self.lengths)

    def columns(self, wanted: Array | slice = slice(None)) -> dict[str, int]:
        """Return the columns of the terms, or of those that are wanted: all of it is in the columns' order."""
        columns = np.arange(len(self))[wanted]
        starts = self.starts[wanted]
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
            found = np.array(self._of_tokens(text), np.intp)
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
        low = self.options.ngram_range[0]
        if self._letters:  # a word that is shorter than an n-gram counts once, whole
            whole = [(f" {word} ", n) for n, word in enumerate(words) if len(word) + 2 < low]
        else:
            whole = [(token, n) for n, word in enumerate(words) for token in self._kept_tokens(word) if low == 1]
        found = [(column, n) for term, n in whole if (column := self.column.get(term)) is not None]
        columns, which = np.array(found, np.intp).reshape(-1, 2).T
        if self._letters:
            more, of = self._letters.of_words(words)
            return np.append(columns, more), np.append(which, of)
        return columns, which

    def over_words(self, text: str) -> list[int]:
        """Return the columns of the n-grams over several words of a preprocessed text."""
        return self._of_tokens(text, 2) if self.options.analyzer == "word" else []

    def _of_tokens(self, text: str, least: int = 1) -> list[int]:
        """Return the columns of the n-grams of at least so many tokens."""
        low, high = self.options.ngram_range
        lengths = range(max(low, least), high + 1)
        tokens = self._kept_tokens(text) if lengths else []
        return [column for length in lengths for column in self._known(_runs(tokens, length))]

    def _known(self, terms: Iterable[str]) -> list[int]:
        return [column for column in map(self.column.get, terms) if column is not None]

    def _kept_tokens(self, text: str) -> list[str]:
        tokens = self._tokens(text)
        return [token for token in tokens if token not in self._stop_words] if self._stop_words else tokens

    def adds_up_by_words(self) -> bool:
        """Tell whether the values, but for those of n-grams over words, are sums over the words; see WordSums."""
        return (
            not (self.options.binary or self.options.sublinear_tf or self.options.norm)
            and self.options.dtype == "float64"
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


class WordSums:
    """Adds a text's scores up word by word, where its values are counts times idf, not divided by the text's length.

    Each n-gram within a word is that word's own, so what a word adds is the same in every text. It is kept for the
    words of the model's vocabulary, which all workers share, and in each worker for others that came lately.
    """

    def __init__(self, blocks: list[Block], weights: Array, table: Array | None = None) -> None:
        """Take what the vocabulary's words add, (1 + words, scores), first 0 for no word; without, it is found now."""
        self._blocks, self._weights = blocks, weights
        idf = [np.ones(len(block.terms)) if block.idf is None else block.idf for block in blocks]
        self._value = np.concatenate([each * block.options.scale for each, block in zip(idf, blocks, strict=True)])
        self._late: dict[str, bytes] = {}  # what a word adds; nothing for one of which the model knows nothing
        words = _vocabulary(blocks)
        # In float64: what a float32 loses is lost again each time that a text has the word.
        self.table = self._table(words) if table is None else table
        some = np.flatnonzero(self.table.any(axis=1)).tolist()  # a given vocabulary may have terms that no text yields
        self._row = {words[row - 1]: row for row in some}.get

    @staticmethod
    def fits(blocks: list[Block]) -> bool:
        """Tell whether the scores of these blocks add up by words, and letters make that worth while."""
        analyzers = {block.options.analyzer for block in blocks}
        common = {(block.options.lowercase, block.options.strip_accents) for block in blocks}
        return "char_wb" in analyzers and len(common) == 1 and all(block.adds_up_by_words() for block in blocks)

    def scores(self, text: str) -> tuple[Array, bool]:
        """Return the scores without the intercept, and whether anything in the text is known."""
        text = self._blocks[0].preprocess(text)
        words = text.split()
        if not words:
            return np.zeros(self._weights.shape[1]), False
        rows = [*map(self._row, words, repeat(0))]
        sums = self.table.take(rows, axis=0).sum(axis=0)
        if late := self._of_late([word for word, row in zip(words, rows, strict=True) if not row]):
            sums += np.frombuffer(late).reshape(-1, len(sums)).sum(axis=0)
        if over := [block.first + column for block in self._blocks for column in block.over_words(text)]:
            sums += self._value.take(over) @ self._weights.take(over, axis=0)
        return sums, any(rows) or bool(late or over)

    def _table(self, words: list[str]) -> Array:
        nothing = bytes(8 * self._weights.shape[1])
        rows = [nothing]
        for start in range(0, len(words), 1000):  # all at once would take a hundred MB
            rows += [added or nothing for added in self._added(words[start : start + 1000])]
        return np.frombuffer(b"".join(rows)).reshape(1 + len(words), -1)

    def _of_late(self, words: list[str]) -> bytes:
        """Return what words that are not in the table add, each in turn: of those that did not come lately at once."""
        added = [*map(self._late.get, words)]
        if None in added:
            new = [*dict.fromkeys(word for word, known in zip(words, added, strict=True) if known is None)]
            found = dict(zip(new, self._added(new), strict=True))
            kept = {word: row for word, row in found.items() if len(word) <= LATE_WORD}
            if len(self._late) + len(kept) > LATE_WORDS:
                self._late = {}  # not one by one, which costs more than finding those that come again
            self._late |= kept
            added = [found.get(word, known) for word, known in zip(words, added, strict=True)]
        return b"".join(filter(None, added))

    def _added(self, words: list[str]) -> list[bytes]:
        """Return what each of these words, none of which has a blank in it, adds to the scores, as float64.

        It is empty for a word of which the model knows nothing.
        """
        found = [(block.first, *block.within_words(words)) for block in self._blocks]
        columns = np.concatenate([first + columns for first, columns, _ in found])
        which = np.concatenate([which for _, _, which in found])
        added = [b""] * len(words)
        if len(columns):
            order = which.argsort(kind="stable")
            columns, which = columns[order], which[order]
            begins = np.flatnonzero(np.diff(which, prepend=-1))
            values = self._value.take(columns)[:, None] * self._weights.take(columns, axis=0)
            for number, row in zip(which[begins].tolist(), np.add.reduceat(values, begins), strict=True):
                added[number] = row.tobytes()
        return added


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
        table: Array | None = None,
    ) -> None:
        """Take weights of shape (columns, scores), an intercept of shape (scores,), and WordSums' table.

        There is one score a class, but for two classes it may be one only, above 0 for the second. `link` says how
        scores become probabilities: softmax, sigmoid, huber, or none. Naive Bayes' weights are logarithms.
        """
        self.classes, self.link, self.blocks, self.logarithms = classes, link, blocks, logarithms
        self.weights, self.intercept = weights, intercept
        self._by_words = WordSums(blocks, weights, table) if WordSums.fits(blocks) else None
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
            arrays["table"] = self._by_words.table
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
            scorer = cls(
                header["classes"],
                header["link"],
                blocks,
                arrays["weights"],
                arrays["intercept"],
                header["logarithms"],
                arrays.get("table"),
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
