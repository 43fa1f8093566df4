"""Ours, but a prediction ends after the step that $BENCHMARK_STEP names, and is livro: see benchmarks/steps.py."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from app import app as application

STEP = os.environ["BENCHMARK_STEP"]
classifier: Any = application.wsgi_app._classifier  # type: ignore[attr-defined] # the hot path's
sums: Any = classifier._engine._by_words
words: Any = sums._words
LIVRO = np.zeros(len(classifier.categories))
LIVRO[classifier.categories.index("livro")] = 100


def scores(text: str) -> tuple[Any, bool]:
    """Do of WordSums.scores what comes up to the step."""
    if STEP != "probabilities":
        text = words.preprocess(text)
        terms = text.split() + words.runs(text, 2)
        if STEP != "words and pairs":
            _, columns = words.find(terms)
            if STEP != "look-up":
                sums.table.take(columns, axis=0).sum(axis=0)
    return LIVRO, True


if STEP == "HTTP and JSON":
    classifier.predict_with_doubt = lambda text: ("livro", False)
else:
    sums.scores = scores
