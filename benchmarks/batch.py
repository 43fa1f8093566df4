"""10,000 texts in one process: python -m benchmarks.batch ours|scikit-learn prints the seconds that they took."""

from __future__ import annotations

import pickle
import sys
import time

from benchmarks.stacks import MODEL
from benchmarks.texts import with_answers
from classifier import Classifier

TEXTS = 10_000

if __name__ == "__main__":
    pairs = with_answers()[:TEXTS]
    texts = [text for text, _ in pairs]
    if sys.argv[1] == "ours":
        predict = Classifier(MODEL).predict
        start = time.perf_counter()
        categories = [predict(text) for text in texts]
    else:
        model = pickle.loads(MODEL.read_bytes())
        start = time.perf_counter()
        categories = model["clf"].predict(model["vect"].transform(texts)).tolist()
    seconds = time.perf_counter() - start
    if categories != [category for _, category in pairs]:
        sys.exit("the categories are not scikit-learn's")
    print(seconds)
