"""The texts that every stack gets, the same for all and each another, with scikit-learn's own answers."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import random
import sys
from pathlib import Path

from benchmarks.stacks import CACHE, MODEL, ROOT

LISTINGS = ROOT / "training" / "listings-train.csv"
NUMBER = 60_000  # more than any stack answers in one run
CHARACTERS = 300


def make(listings: Path, number: int, seed: int = 1) -> list[str]:
    """Return different texts of about 300 characters, each of several listings' titles and descriptions."""
    with listings.open(encoding="utf-8", newline="") as file:
        parts = [f"{row['titulo']} {row['descricao']}".strip() for row in csv.DictReader(file, delimiter=";")]
    generator = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < number:
        text = generator.choice(parts)
        while len(text) < CHARACTERS:
            text += " " + generator.choice(parts)
        made[text[: CHARACTERS + 20]] = None
    return list(made)


def with_answers() -> list[tuple[str, str]]:
    """Return texts with their categories, as scikit-learn has them in one call; kept for the next run."""
    inputs = MODEL.read_bytes() + LISTINGS.read_bytes() + Path(__file__).read_bytes()
    kept = CACHE / f"texts-{hashlib.sha256(inputs).hexdigest()[:16]}.json"
    if not kept.exists():
        print(f"asking scikit-learn for the categories of {NUMBER} texts", flush=True)
        texts = make(LISTINGS, NUMBER)
        model = pickle.loads(MODEL.read_bytes())
        pairs = list(zip(texts, map(str, model["clf"].predict(model["vect"].transform(texts))), strict=True))
        CACHE.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(pairs, ensure_ascii=False))
        part.replace(kept)
    return [(text, category) for text, category in json.loads(kept.read_text())]


if __name__ == "__main__":
    print(len(with_answers()), "texts", file=sys.stderr)
