"""The compiled model: arrays and a vocabulary that score a text as scikit-learn would, without scikit-learn."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TABLE_BYTES = 64_000_000  # of the table of what each term adds to the scores, at most; the shipped model's has 12 MB
LATIN_ACCENTS = re.compile("[\u0300-\u034e\u0350-\u036f]")  # all of them combine; mostly only ASCII is left
LATE_BYTES = 4_000_000  # of what other words add, kept in each worker of those that came lately; 7 MB with the words
LATE_WORD = 30  # characters; longer ones do not come again, and would let a client fill the memory
ROLL, MIX = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # any odd numbers of 64 bits, well mixed
UNROLL = pow(ROLL, -1, 2**64)
LETTERS_AT_ONCE = 8192  # so that a text that Unicode expands to 360,000 letters takes no more memory than a long one
NO_LETTER = 0x110002  # more than any letter's number in _codes
# Patterns of tokens that are runs of letters and digits, with the shortest one's length.
RUNS_OF_LETTERS = {r"(?u)\b\w\w+\b": 2, r"(?u)\b\w+\b": 1}
BLANK_BETWEEN_TOKENS = "".join(chr(c) if re.match(r"\w", chr(c)) else " " for c in range(128))  # for str.translate
OTHER = 0xFF  # in _latin: this character needs more than a table; so does the one of that number, which is rare


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

    def strings(self) -> list[str]:
        """Return the terms, each as a string."""
        starts = self.starts
        ends = starts + self.lengths
        return [self.text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


class Index:
    """Finds many hashes of 64 bits among given ones at once.

    These lie sorted, with a table of where those of the same first bits begin. In a dict of strings each look-up visits
    some ten places in memory, which the processor's caches have mostly lost since the last request.
    """

    def __init__(self, hashes: Array) -> None:
        bits = 1 + len(hashes).bit_length()  # two to four places for each hash
        self._shift = np.uint64(64 - bits)
        self._number = hashes.argsort().astype(np.int32)
        ordered = hashes[self._number]
        count = np.bincount(self._place(ordered), minlength=2**bits)
        self._begin = count.cumsum() - count
        # As many as the fullest place has, so that of most places the next ones' are seen too, which are none of these.
        self._window = np.arange(count.max())
        self._sorted = np.append(ordered, np.zeros(len(self._window), np.uint64))

    def find(self, hashes: Array) -> tuple[Array, Array]:
        """Return which of these are in the index, in their order, and the position that each had when it was made."""
        at = self._begin.take(self._place(hashes))[:, None] + self._window
        found = (self._sorted.take(at) == hashes[:, None]).ravel().nonzero()[0]
        return found // len(self._window), self._number.take(at.ravel().take(found))

    def _place(self, hashes: Array) -> Array:
        return (hashes >> self._shift).view(np.int64)


class Letters:
    """Finds all n-grams of letters of a text at once, by hashes: differences of the sums of letters times powers.

    An n-gram that is not the model's has the hash of one that is, and is taken for it, once in 10 ** 14.
    """

    def __init__(self, terms: Terms, ngram_range: tuple[int, int]) -> None:
        low, high = ngram_range
        self._lengths = np.arange(low, high + 1)
        self._powers = _powers(LETTERS_AT_ONCE + high)
        codes = _codes(terms.text)
        columns: list[Array] = [np.empty(0, np.int64)]
        hashes: list[Array] = [np.empty(0, np.uint64)]
        for length in range(low, high + 1):
            found = np.flatnonzero(terms.lengths == length)
            columns.append(found)
            letters = codes[terms.starts[found, None] + np.arange(length)]
            hashes.append((letters * self._powers[0][:length]).sum(axis=1) * self._powers[1][0])
        self._columns = np.concatenate(columns).astype(np.int32)
        self._index = Index(np.concatenate(hashes))

    def of_text(self, text: str) -> tuple[Array, Array]:
        """Return the columns of a text's n-grams, each as often as it occurs, and the letter at which each begins."""
        return self._known(_codes(text))

    def of_words(self, words: list[str]) -> tuple[Array, Array]:
        """Return the columns of the n-grams of words with a blank at either end, and the number of each one's word.

        The words have no blank, tab or line end in them.
        """
        codes = _codes("\n".join(f" {word} " for word in words))
        between = codes == _codes("\n")
        codes[between] = NO_LETTER  # which no word has, nor any of the model's n-grams
        columns, begins = self._known(codes)
        return columns, between.cumsum().take(begins)

    def _known(self, codes: Array) -> tuple[Array, Array]:
        columns, begins = [], []
        for first in range(0, len(codes), LETTERS_AT_ONCE):
            some = codes[first : first + LETTERS_AT_ONCE + self._lengths[-1] - 1]
            powers, back = self._powers
            # Behind the letters stands what is no sum of theirs, which are above 0: what reaches there is no n-gram.
            sums = np.full(len(some) + 1 + self._lengths[-1], ROLL, np.uint64)
            sums[0] = 0
            (some * powers[: len(some)]).cumsum(out=sums[1 : len(some) + 1])
            at = np.arange(min(len(some), LETTERS_AT_ONCE))[:, None]
            hashes = (sums.take(at + self._lengths) - sums[: len(at), None]) * back[: len(at), None]
            which, found = self._index.find(hashes.ravel())
            columns.append(self._columns.take(found))
            begins.append(first + which // len(self._lengths))
        if not columns:
            return np.empty(0, np.int32), np.empty(0, np.intp)
        return np.concatenate(columns), np.concatenate(begins)


class Block:
    """One vectorizer: turns a text into values in its columns of the model."""

    def __init__(self, options: Options, terms: Terms, first: int, idf: Array | None) -> None:
        """Take the terms, the column of the first of them, and idf of shape (terms,)."""
        self.options, self.terms, self.first, self.idf = options, terms, first, idf
        if options.analyzer == "word":
            self._index = Index(_hashes(terms.strings()))
        else:
            self._letters = Letters(terms, options.ngram_range)
            short = np.flatnonzero(terms.lengths < options.ngram_range[0]).tolist()  # as a short word may be
            strings = terms.strings() if short else []
            self._short = {strings[column]: column for column in short}
        self._tokens = re.compile(options.token_pattern).findall
        self._shortest = RUNS_OF_LETTERS.get(options.token_pattern, 0)
        self._stop_words = frozenset(options.stop_words)

    def columns(self, text: str) -> Array:
        """Return the columns, from 0, of the text's n-grams, sorted, each as often as it occurs; int32."""
        text = self.preprocess(text)
        if self.options.analyzer == "char_wb":
            columns, _ = self.within_words(text.split())
        elif self.options.analyzer == "char":
            columns, _ = self._letters.of_text(re.sub(r"\s\s+", " ", text))
        else:
            _, columns = self.find(self.runs(text))
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
            spans = [(n, n + 1) for n in which.tolist()]
        elif self.options.analyzer == "char":
            pieces = [(letter, p) for p, word in enumerate(words) for letter in self.preprocess(word) + " "][:-1]
            columns, begins = self._letters.of_text("".join(letter for letter, _ in pieces))
            spans = [*zip(begins.tolist(), (begins + self.terms.lengths[columns]).tolist(), strict=True)]
        else:
            pieces = [(token, p) for p, word in enumerate(words) for token in self.tokens(self.preprocess(word))]
            low, high = self.options.ngram_range
            lengths = range(low, min(high, len(pieces)) + 1)
            runs = [(start, start + length) for length in lengths for start in range(len(pieces) - length + 1)]
            which, columns = self.find([" ".join(piece for piece, _ in pieces[begin:end]) for begin, end in runs])
            spans = [runs[n] for n in which.tolist()]
        for column, (begin, end) in zip(columns.tolist(), spans, strict=True):
            yield column, {position for _, position in pieces[begin:end]}

    def within_words(self, words: list[str]) -> tuple[Array, Array]:
        """Return the columns of n-grams of letters that each word of a preprocessed text has, and whose each is.

        Those of one word stand together.
        """
        columns, which = self._letters.of_words(words)
        if not self._short:
            return columns, which
        whole = [(column, n) for n, word in enumerate(words) if (column := self._short.get(f" {word} ")) is not None]
        short, of = np.array(whole, np.intp).reshape(-1, 2).T  # which count once, and have no other
        return np.append(columns, short.astype(np.int32)), np.append(which, of)

    def runs(self, text: str, least: int = 1) -> list[str]:
        """Return the n-grams of at least so many tokens of a preprocessed text."""
        low, high = self.options.ngram_range
        tokens = self.tokens(text) if high >= least else []
        runs = tokens[:] if max(low, least) == 1 else []
        for length in range(max(low, least, 2), high + 1):
            runs += map(" ".join, zip(*(tokens[start:] for start in range(length)), strict=False))
        return runs

    def find(self, terms: list[str]) -> tuple[Array, Array]:
        """Return which of these are terms of words, and their columns."""
        return self._index.find(_hashes(terms))

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a preprocessed text."""
        if self._shortest and text.isascii():  # several times as fast as the pattern, and the same
            tokens = text.translate(BLANK_BETWEEN_TOKENS).split()
            if self._shortest > 1:
                tokens = [token for token in tokens if len(token) >= self._shortest]
        else:
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


@lru_cache(maxsize=2)  # the blocks of a model mostly agree on it
def _preprocess(text: str, lowercase: bool, strip_accents: str | None) -> str:
    try:
        latin = text.encode("latin-1").translate(_latin(lowercase, strip_accents))
    except UnicodeEncodeError:
        return _preprocess_any(text, lowercase, strip_accents)
    return _preprocess_any(text, lowercase, strip_accents) if OTHER in latin else latin.decode("latin-1")


@lru_cache
def _latin(lowercase: bool, strip_accents: str | None) -> bytes:
    """Return what each Latin-1 character by itself becomes, OTHER where that is none of them."""
    each = [_preprocess_any(chr(code), lowercase, strip_accents) for code in range(256)]
    return bytes(ord(one) if len(one) == 1 and ord(one) < OTHER else OTHER for one in each)


def _preprocess_any(text: str, lowercase: bool, strip_accents: str | None) -> str:
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
    words and runs of words among the model's terms, which all workers share, and in each worker for words that came
    lately. Such a row ends with a number that is above 0 where the model knows any n-gram of the word.
    """

    def __init__(self, blocks: list[Block], weights: Array, table: Array | None = None) -> None:
        """Take what each of the terms of words adds, (terms, scores + 1); without, it is found now."""
        (self._words,) = (block for block in blocks if block.options.analyzer == "word")
        self._blocks, self._weights = blocks, weights
        idf = [np.ones(len(block.terms)) if block.idf is None else block.idf for block in blocks]
        self._value = np.concatenate([each * block.options.scale for each, block in zip(idf, blocks, strict=True)])
        self._late: dict[str, bytes] = {}  # what a word adds
        # In float64: what a float32 loses is lost again each time that a text has the word.
        self.table = self._table() if table is None else table

    @staticmethod
    def fits(blocks: list[Block], scores: int) -> bool:
        """Tell whether the scores of these blocks add up by words, and letters make that worth while."""
        words = [block for block in blocks if block.options.analyzer == "word"]
        common = {(block.options.lowercase, block.options.strip_accents) for block in blocks}
        return (
            len(words) == 1
            and len(blocks) > 1
            and len(common) == 1
            and all(block.adds_up_by_words() for block in blocks)
            and len(words[0].terms) * (scores + 1) * 8 <= TABLE_BYTES
        )

    def scores(self, text: str) -> tuple[Array, bool]:
        """Return the scores without the intercept, and whether anything in the text is known."""
        text = self._words.preprocess(text)
        words = text.split()
        terms = words + self._words.runs(text, 2)
        which, columns = self._words.find(terms)
        sums = self.table.take(columns, axis=0).sum(axis=0)
        missed = np.ones(len(terms), bool)
        missed[which] = False
        if late := self._of_late([*compress(words, missed.tolist())]):
            sums += np.frombuffer(late).reshape(-1, len(sums)).sum(axis=0)
        return sums[:-1], bool(sums[-1])

    def _table(self) -> Array:
        terms = self._words.terms.strings()
        own = slice(self._words.first, self._words.first + len(terms))
        table = np.ones((len(terms), self._weights.shape[1] + 1))
        table[:, :-1] = self._value[own, None] * self._weights[own]
        words = [column for column, term in enumerate(terms) if term.split() == [term]]
        # A vocabulary that was given may have words that are no token, or not one: as terms they add nothing.
        table[[column for column in words if self._words.runs(terms[column]) != [terms[column]]]] = 0
        for start in range(0, len(words), 1000):  # all at once would take a hundred MB
            some = words[start : start + 1000]
            table[some] += self._added([terms[column] for column in some])
        return table

    def _of_late(self, words: list[str]) -> bytes:
        """Return what words that are not in the table add, each in turn: of those that did not come lately at once."""
        late, found = self._late, dict[str, bytes]()
        if new := [*{word for word in words if word not in late}]:
            found = dict(zip(new, [row.tobytes() for row in self._added(new)], strict=True))
            kept = {word: row for word, row in found.items() if len(word) <= LATE_WORD}
            if (len(late) + len(kept)) * self.table.itemsize * self.table.shape[1] > LATE_BYTES:
                self._late = {}  # not one by one, which costs more than finding those that come again
            self._late |= kept
        return b"".join([found.get(word) or late[word] for word in words])

    def _added(self, words: list[str]) -> Array:
        """Return what each of these words, none of which has a blank in it, adds, but for itself as a term.

        float64 of shape (words, scores + 1).
        """
        added = np.zeros((len(words), self._weights.shape[1] + 1))
        tokens = [(token, n) for n, word in enumerate(words) for token in self._words.tokens(word) if token != word]
        if tokens and self._words.options.ngram_range[0] == 1:
            which, columns = self._words.find([token for token, _ in tokens])
            self._add(added, self._words.first + columns, np.array([n for _, n in tokens]).take(which))
        for block in self._blocks:
            if block is not self._words:
                columns, which = block.within_words(words)
                self._add(added, block.first + columns, which)
        return added

    def _add(self, added: Array, columns: Array, which: Array) -> None:
        """Add each of these columns to the row that it is of; those of one row must stand together."""
        if len(columns):
            begins = np.flatnonzero(np.append(True, which[1:] != which[:-1]))
            values = self._value.take(columns)[:, None] * self._weights.take(columns, axis=0)
            rows = which.take(begins)
            added[rows, :-1] += np.add.reduceat(values, begins)
            added[rows, -1] += 1


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
        self._by_words = WordSums(blocks, weights, table) if WordSums.fits(blocks, len(intercept)) else None
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


def _hashes(strings: list[str]) -> Array:
    """Return Python's own hashes, uint64: other ones in each process, so that nobody can make two that are the same."""
    hashes = np.fromiter(map(hash, strings), np.int64, len(strings)).view(np.uint64)
    if not "".join(strings).isascii():
        # Python hashes the bytes that a string has in memory, where "水" is the same as "4l" but for its length.
        hashes += np.array([0 if string.isascii() else len(string) for string in strings], np.uint64) * np.uint64(MIX)
    return hashes


def _codes(text: str) -> Array:
    """Return the letters as numbers above 0."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64) + np.uint64(1)


def _powers(count: int) -> tuple[Array, Array]:
    """Return so many powers of ROLL, from the first on, and what takes a hash back by as many, and mixes it."""
    powers = np.full((2, count), [[ROLL], [UNROLL]], np.uint64)
    powers[:, 0] = 1, MIX
    return powers[0].cumprod(), powers[1].cumprod()


def _encode(text: str) -> Array:
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def _decode(data: Array) -> str:
    return data.tobytes().decode("utf-8", "surrogatepass")
