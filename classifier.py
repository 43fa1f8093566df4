"""Text in, category out: what the model answers, how sure it is, and which words spoke for it."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict
from zipfile import BadZipFile

from cache import HERE, made_once
from scorer import NOT_COMPILABLE, Judgement, ModelError, Scorer

ALTERNATIVES = 3
WORDS = 5
MAKERS = ("compiler.py", "model_file.py", "scorer.py", "requirements.txt")  # what a compiled model depends on

log = logging.getLogger(__name__)


class NotCompiled(Exception):
    """This process must read the model file itself."""


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
    alternativas: list[Alternative]
    palavras: list[Word] | None


class Engine(Protocol):
    """What scores a text: scorer.Scorer, or compiler.Uncompiled where scikit-learn itself must."""

    classes: list[Any]

    def best(self, text: str) -> tuple[int, float | None, bool]: ...
    def judge(self, text: str) -> Judgement: ...
    def shares(self, text: str, position: int) -> dict[str, float] | None: ...


class Classifier:
    """A model that has shown that it can predict."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Load the file, compiled if it can be, and try it: on any text, and on the phrases that its card names.

        Raises ModelError where it cannot be loaded, cannot predict, or gets a phrase wrong.
        """
        try:
            self.sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror}") from error
        self._engine, about = load_engine(Path(path), self.sha256)
        self.categories: list[str] = self._engine.classes
        self._meta: dict[str, Any] = about["meta"]
        self._threshold: float = self._meta.get("limiar_incerto", 0.5)
        self.sklearn: str = about["sklearn"]
        if self.sklearn != about["read_by"]:
            log.warning("%s was made by scikit-learn %s and is read by %s", path, self.sklearn, about["read_by"])
        self.explain("boneca de pano")
        for phrase in self._meta.get("frases", []):
            answer = self.predict(phrase["texto"])
            if answer != phrase["categoria"]:
                raise ModelError(
                    f"{path}: {phrase['texto']!r} is {answer!r}, and its card says {phrase['categoria']!r}"
                )

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
        return self.categories[self._engine.best(text)[0]]

    def predict_with_doubt(self, text: str) -> tuple[str, bool | None]:
        """Return the text's category, and what `explain` says of `incerto`, without the rest."""
        best, confidence, known = self._engine.best(text)
        return self.categories[best], self._unsure(confidence, known)

    def explain(self, text: str) -> Details:
        """Return the text's category with its probability, the next best and the words that spoke for it."""
        best, scores, probabilities, known = self._engine.judge(text)
        confidence = _at(probabilities, best)
        others = sorted((position for position in range(len(scores)) if position != best), key=lambda p: -scores[p])
        shares = self._engine.shares(text, best)
        return {
            "categoria": self.categories[best],
            "confianca": confidence,
            "incerto": self._unsure(confidence, known),
            "alternativas": [
                {"categoria": self.categories[p], "confianca": _at(probabilities, p)} for p in others[:ALTERNATIVES]
            ],
            "palavras": None if shares is None else _best_words(shares),
        }

    def _unsure(self, confidence: float | None, known: bool) -> bool | None:
        if not known:
            return True
        return None if confidence is None else bool(confidence < self._threshold)  # the card's may be numpy's


def _at(probabilities: Sequence[float] | None, position: int) -> float | None:
    return None if probabilities is None else float(probabilities[position])


def _best_words(shares: dict[str, float]) -> list[Word]:
    """Return the words with the largest shares above 0, in lower case and without the punctuation around them."""
    total: dict[str, float] = {}
    for word, share in shares.items():
        inside = [position for position, character in enumerate(word) if character.isalnum()]
        if inside:
            bare = word[inside[0] : inside[-1] + 1].lower()
            total[bare] = total.get(bare, 0.0) + share
    best = sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))[:WORDS]
    return [{"palavra": word, "peso": share} for word, share in best if share > 0]


def load_engine(path: Path, sha256: str) -> tuple[Engine, dict[str, Any]]:
    """Return what scores texts as the model file does, and what compiler.read tells of the file.

    The compiled form is kept under the hash of the file and of the code that made it, so that a stale one is never
    used. A process that has not loaded scikit-learn lets another compile, and stays small.
    """
    code = b"".join((HERE / name).read_bytes() for name in MAKERS)

    def compile_to(made: Path) -> None:
        if "sklearn" in sys.modules:
            raise NotCompiled
        command = [sys.executable, str(HERE / "compiler.py"), str(path), str(made)]
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if result.returncode == NOT_COMPILABLE:
            raise NotCompiled
        if result.returncode:
            raise ModelError(result.stderr.strip() or f"{path}: its compiler ended with {result.returncode}")

    try:
        return made_once(f"{hashlib.sha256(sha256.encode() + code).hexdigest()}.npz", compile_to, _load)
    except NotCompiled:
        return _read_here(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be compiled: {error}") from error


def _load(compiled: Path) -> tuple[Engine, dict[str, Any]]:
    try:
        return Scorer.load(compiled)
    except (BadZipFile, EOFError, KeyError, ValueError) as error:
        raise OSError(f"{compiled}: {error}") from error


def _read_here(path: Path) -> tuple[Engine, dict[str, Any]]:
    import compiler

    engine, about = compiler.read(path)
    if isinstance(engine, compiler.Uncompiled):
        log.warning("%s cannot be compiled (%s) and is served by scikit-learn itself, slower", path, engine.why)
    return engine, about
