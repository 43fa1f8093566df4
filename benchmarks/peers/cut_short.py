"""Ours, but a prediction ends after the step that $BENCHMARK_STEP names, and is livro: see benchmarks/steps.py."""

from __future__ import annotations

import os
from typing import Any

from app import app as application

STEP = os.environ["BENCHMARK_STEP"]
BLOCKS = {"call": 0, "words and pairs": 1}  # of the shipped model, that scorer.c then has
classifier: Any = application.wsgi_app._classifier  # type: ignore[attr-defined] # the hot path's
predict = classifier.predict_with_doubt


def cut_short(text: str) -> tuple[str, bool]:
    if STEP in BLOCKS:
        predict(text)
    return "livro", False


classifier._engine._model.block_count = BLOCKS.get(STEP, 0)
classifier.predict_with_doubt = cut_short
