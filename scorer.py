"""The compiled model: arrays and a vocabulary that score a text as scikit-learn would, without scikit-learn."""

from __future__ import annotations

import json
import os
import re
import secrets
import unicodedata
from collections.abc import Sequence
from ctypes import c_double
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import native

Array = NDArray[Any]
LATIN_ACCENTS = re.compile("[\u0300-\u034e\u0350-\u036f]")  # all of them combine; mostly only ASCII is left
PARTS_BYTES = 16_000_000  # of what each word adds to the scores, at most; the shipped model's has 9 MB
# Patterns of tokens that are runs of letters and digits, with the shortest one's length.
RUNS_OF_LETTERS = {r"(?u)\b\w\w+\b": 2, r"(?u)\b\w+\b": 1}
NO_LETTER = 0x110000  # more than any letter's number
OTHER = 0xFFFF  # scorer.c's
NOT_COMPILABLE = 3  # compiler.py's exit status where scikit-learn itself must serve a model
LINE = 64  # bytes of a processor's cache line
HIT = np.dtype([("column", np.int32), ("begin", np.int32), ("end", np.int32)])


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

    @classmethod
    def of(cls, terms: list[str]) -> Terms:
        return cls("".join(terms), np.array([*map(len, terms)], np.int32))

    def __len__(self) -> int:
        return len(self.lengths)

    def strings(self) -> list[str]:
        """Return the terms, each as a string."""
        ends = self.lengths.cumsum().tolist()
        return [self.text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class Block:
    """One vectorizer with the weights of its terms: finds them in a text, and adds what they say to the scores.

    Terms are found by hashes: an n-gram that is none of them is taken for one once in 10 ** 12.
    """

    def __init__(self, options: Options, terms: Terms, idf: Array | None, weights: Array) -> None:
        """Take the terms, idf of shape (terms,), and weights of shape (terms, scores), float32 or float64."""
        self.options, self.terms, self.idf = options, terms, idf
        self._tokens = re.compile(options.token_pattern).findall
        self._stop_words = frozenset(options.stop_words)
        # Such tokens have no blank in them, others may have.
        self._runs = options.analyzer == "word" and options.token_pattern in RUNS_OF_LETTERS
        # Whether scorer.c itself can take a text in Latin-1 apart.
        self.latin = options.analyzer == "char_wb" or (self._runs and not self._stop_words)
        adds_up = not (options.binary or options.sublinear_tf or options.norm) and options.dtype == "float64"
        count, scores = weights.shape
        self._arrays = {
            "weights": _rows(count, scores, weights.dtype),
            "counts": np.zeros(count, np.int32),
            "columns": np.zeros(count, np.int32),
            "values": np.zeros(count),
        }
        self._arrays["weights"][:, :scores] = weights
        if idf is not None:
            self._arrays["idf"] = idf.astype(np.float64)
        self.struct = native.Block(
            **{name: array.ctypes.data for name, array in self._arrays.items()},
            terms=self._index("terms", count),
            seed=secrets.randbits(64),
            scale=options.scale,
            analyzer=native.ANALYZERS.index(options.analyzer),
            low=options.ngram_range[0],
            high=options.ngram_range[1],
            norm=native.NORMS.index(options.norm),
            weight_row=self._arrays["weights"].shape[1],
            score_count=scores,
            shortest=RUNS_OF_LETTERS[options.token_pattern] if self._runs else 1,
            separator=ord(" ") if self._runs else NO_LETTER,
            binary=options.binary,
            sublinear=options.sublinear_tf,
            adds_up=adds_up,
            single_values=options.dtype == "float32",
            single_weights=weights.dtype == np.float32,
        )
        self.struct.latin[:] = [self._latin(chr(code)) for code in range(256)]
        native.learn_terms(self.struct, _utf32(terms.text), terms.lengths.ctypes.data, count)

    @property
    def adds_up_by_words(self) -> bool:
        """Whether what the n-grams of a word add is the same in any text, so that learn_words has a use."""
        return bool(self.struct.adds_up) and self.options.analyzer == "char_wb"

    def learn_words(self, words: list[str]) -> None:
        """Find once and for all what each of these words adds; they must have no blank."""
        numbers = 1 + self.struct.score_count
        parts = self._arrays["parts"] = _rows(len(words), numbers, np.dtype(np.float64))
        self.struct.words, self.struct.parts = self._index("words", len(words)), parts.ctypes.data
        self.struct.part_row = parts.shape[1]
        letters = self._joined(words)
        native.learn_words(self.struct, letters, len(letters) // 4)

    def _index(self, name: str, count: int) -> native.Index:
        bits = count.bit_length()
        self._arrays[name] = np.zeros(2 ** (bits + 1), np.uint64)  # two to four places for each
        return native.Index(self._arrays[name].ctypes.data, 2 ** (bits + 1), 2**bits - 1)

    @property
    def weights(self) -> Array:
        return self._arrays["weights"][:, : self.struct.score_count]

    def add(self, text: str, sums: Any) -> None:
        """Add to the sums how many terms the text has, and behind that number, what they add to the scores."""
        letters = self._letters(text)
        native.add(self.struct, letters, len(letters) // 4, sums)

    def values(self, text: str) -> tuple[Array, Array]:
        """Return the columns of the text's terms, each once, and the values that the vectorizer's transform has."""
        letters = self._letters(text)
        count = native.transform(self.struct, letters, len(letters) // 4)
        return self._arrays["columns"][:count].copy(), self._arrays["values"][:count].copy()

    def shares_of_words(self, words: list[str], shares: Array) -> Array:
        """Return what each of the words that make up a text has of the terms' shares, of shape (terms,).

        A term's share is divided among the places where it stands, and counts there for each word that it touches.
        """
        columns, first, last, touchable = self._places(words)
        each = shares[columns] / np.bincount(columns)[columns] if len(columns) else np.empty(0)
        total = np.zeros(len(words))
        for step in range(int((last - first).max(initial=0)) + 1):
            touched = first + step <= last
            np.add.at(total, (first + step)[touched], each[touched])
        return total * touchable

    def _places(self, words: list[str]) -> tuple[Array, Array, Array, Array]:
        """Return the columns of a text's terms, the first and last word that each touches, and which it can."""
        preprocessed = [self._preprocess(word) for word in words]
        touchable = np.zeros(len(words), bool)
        if self.options.analyzer == "char_wb":
            hits = [self._located(word.split()) for word in preprocessed]
            columns = np.concatenate([np.empty(0, np.int32), *[each["column"] for each in hits]])
            first = np.repeat(np.arange(len(words)), [*map(len, hits)])
            return columns, first, first, ~touchable
        if self.options.analyzer == "char":
            pieces, lengths, behind = [" ".join(preprocessed)], [len(word) + 1 for word in preprocessed], 1
            owners = np.repeat(np.arange(len(words)), lengths)
        else:
            found = [(token, position) for position, word in enumerate(preprocessed) for token in self._split(word)]
            pieces, lengths, behind = [token for token, _ in found], [len(token) + 1 for token, _ in found], 0
            owners = np.repeat(np.array([position for _, position in found], np.intp), lengths)
        touchable[owners] = True
        located = self._located(pieces)
        # What stands behind a token, which may be empty, is the token's own.
        return located["column"], owners[located["begin"]], owners[located["end"] - behind], touchable

    def _located(self, pieces: list[str]) -> Array:
        letters = self._joined(pieces)
        hits = np.zeros(native.locate(self.struct, letters, len(letters) // 4, None, 0), HIT)
        native.locate(self.struct, letters, len(letters) // 4, hits.ctypes.data, len(hits))
        return hits

    def _letters(self, text: str) -> bytes:
        """Return a text as scorer.c takes it."""
        text = self._preprocess(text)
        return self._joined([re.sub(r"\s\s+", " ", text)] if self.options.analyzer == "char" else self._split(text))

    def _split(self, text: str) -> list[str]:
        """Return the tokens of a preprocessed text, or its words where n-grams are of letters."""
        if self.options.analyzer == "char_wb":
            return text.split()
        tokens = self._tokens(text)
        return [token for token in tokens if token not in self._stop_words] if self._stop_words else tokens

    def _joined(self, pieces: list[str]) -> bytes:
        if self.options.analyzer == "char":
            return _utf32("".join(pieces))
        if self.options.analyzer == "char_wb":
            return _utf32(" ".join(["", *pieces, ""])) if pieces else b""
        if self._runs:
            return _utf32(" ".join([*pieces, ""]))
        return b"".join([_utf32(piece) + NO_LETTER.to_bytes(4, "little") for piece in pieces])

    def _preprocess(self, text: str) -> str:
        return _preprocess(text, self.options.lowercase, self.options.strip_accents)

    def _latin(self, letter: str) -> int:
        """Return what a letter of Latin-1 becomes, for scorer.c."""
        one = self._preprocess(letter)
        if len(one) != 1 or one > "\xff":
            return OTHER
        between = one.isspace() if self.options.analyzer == "char_wb" else not re.match(r"\w", one)
        return ord(" " if between else one)


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
    """What a model says of a text."""

    best: int  # the position of the text's class
    scores: Sequence[float]  # one a class
    probabilities: Sequence[float] | None  # None where the model gives none
    known: bool  # whether the text has anything that the model knows


class Scorer:
    """A linear model over the blocks: scores are values times weights plus an intercept."""

    def __init__(self, classes: list[Any], link: str, blocks: list[Block], intercept: Array, logarithms: bool) -> None:
        """Take an intercept of shape (scores,).

        There is one score a class, but for two classes it may be one only, above 0 for the second. `link` says how
        scores become probabilities: softmax, sigmoid, huber, or none. Naive Bayes' weights are logarithms.
        """
        self.classes, self.link, self.logarithms = classes, link, logarithms
        self.blocks, self.intercept = blocks, intercept
        self._intercept = intercept.astype(np.float64)
        self._latin = all(block.latin for block in blocks)
        self._learn_words()
        self._verdicts = c_double * (2 * len(classes) + 1)
        self._model = native.Model(
            blocks=(native.Block * len(blocks))(*[block.struct for block in blocks]),
            intercept=self._intercept.ctypes.data,
            block_count=len(blocks),
            score_count=len(intercept),
            class_count=len(classes),
            link=native.LINKS.index(link),
            single=intercept.dtype == np.float32
            and all(block.struct.single_values and block.struct.single_weights for block in blocks),
        )

    def _learn_words(self) -> None:
        """Let blocks of letters learn the words that are terms of others, the commonest first."""
        learning = [block for block in self.blocks if block.adds_up_by_words]
        if not learning:
            return
        terms = [term for block in self.blocks if block.options.analyzer == "word" for term in block.terms.strings()]
        words = [term for term in terms if term.split() == [term]]
        words += [f"{word}," for word in words]  # the commonest of what is no term
        for block in learning:
            block.learn_words(words[: PARTS_BYTES // (8 * (1 + len(self.intercept)) * len(learning))])

    def save(self, path: str | os.PathLike[str], about: dict[str, Any]) -> None:
        """Write what `load` reads: arrays only, no pickle. `about` is anything of JSON's to keep with it."""
        header = {
            "about": about,
            "classes": self.classes,
            "link": self.link,
            "logarithms": self.logarithms,
            "blocks": [asdict(block.options) for block in self.blocks],
        }
        arrays = {"header": _encode(json.dumps(header)), "intercept": self.intercept}
        for number, block in enumerate(self.blocks):
            arrays[f"lengths{number}"] = block.terms.lengths
            arrays[f"terms{number}"] = _encode(block.terms.text)
            arrays[f"weights{number}"] = block.weights
            if block.idf is not None:
                arrays[f"idf{number}"] = block.idf
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> tuple[Scorer, dict[str, Any]]:
        """Return the scorer that `save` wrote, and what it was told to keep with it."""
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(_decode(arrays["header"]))
            blocks = []
            for number, options in enumerate(header["blocks"]):
                options["ngram_range"] = tuple(options["ngram_range"])
                terms = Terms(_decode(arrays[f"terms{number}"]), arrays[f"lengths{number}"])
                idf, weights = arrays.get(f"idf{number}"), arrays[f"weights{number}"]
                blocks.append(Block(Options(**options), terms, idf, weights))
            scorer = cls(header["classes"], header["link"], blocks, arrays["intercept"], header["logarithms"])
        return scorer, header["about"]

    def best(self, text: str) -> tuple[int, float | None, bool]:
        """Return the position of the text's class, its probability, and whether the model knows any of it."""
        position, verdict = self._verdict(text)
        probability = None if self.link == "none" else verdict[1 + len(self.classes) + position]
        return position, probability, verdict[0] > 0

    def judge(self, text: str) -> Judgement:
        """Return the text's class with what is known of the others."""
        best, verdict = self._verdict(text)
        behind = 1 + len(self.classes)
        probabilities = None if self.link == "none" else verdict[behind:]
        return Judgement(best, verdict[1:behind], probabilities, verdict[0] > 0)

    def _verdict(self, text: str) -> tuple[int, Any]:
        """Return the class's position, and the number of terms, each class's score and each one's probability."""
        try:
            latin = text.encode("latin-1") if self._latin else None
        except UnicodeEncodeError:
            latin = None
        verdict = self._verdicts()
        best = -1 if latin is None else native.judge_latin(self._model, latin, len(latin), verdict)
        if best < 0:
            verdict = self._verdicts()
            for block in self.blocks:
                block.add(text, verdict)
            best = native.conclude(self._model, verdict)
        return best, verdict

    def shares(self, text: str, position: int) -> dict[str, float]:
        """Return what each word of the text adds to the score of the class at this position.

        A word is what stands between blanks. An n-gram's share, its value times its weight, counts for each word that
        it touches. Naive Bayes' weights are logarithms, all below 0, which say something only against the other
        classes': their mean over the classes is taken off, which changes no probability.
        """
        words = text.split()
        total = dict.fromkeys(words, 0.0)
        for block in self.blocks:
            columns, values = block.values(text)
            weights = block.weights[columns]
            if weights.shape[1] == 1:
                one = weights[:, 0] if position else -weights[:, 0]
            else:
                one = weights[:, position] - weights.mean(axis=1) if self.logarithms else weights[:, position]
            shares = np.zeros(len(block.terms))
            shares[columns] = values * one
            for word, share in zip(words, block.shares_of_words(words, shares).tolist(), strict=True):
                total[word] += share
        return total


def _rows(count: int, numbers: int, dtype: np.dtype[Any]) -> Array:
    """Return rows of zeros, of so many numbers or some more, that are in no more cache lines than they must."""
    size = numbers * dtype.itemsize
    size = -(-size // LINE) * LINE if size > LINE else 2 ** (size - 1).bit_length()
    memory = np.zeros(count * size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + count * size].view(dtype).reshape(count, size // dtype.itemsize)


def _utf32(text: str) -> bytes:
    return text.encode("utf-32-le", "surrogatepass")


def _encode(text: str) -> Array:
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def _decode(data: Array) -> str:
    return data.tobytes().decode("utf-8", "surrogatepass")
