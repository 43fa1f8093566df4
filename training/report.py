"""Measure a model on what it has not seen: the figures of its card and REPORT.md."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.pipeline import FeatureUnion

from training.data import Item

BINS = 10
SPLIT = (
    "receipts and book: near-duplicates merged by the words of the name in order (no accents, case, digits, units or "
    "little words), 20 % of each category by hash held out; listings: a file of their own, "
    "near-copies taken out of the listings that train, and not measured where a receipt that trains has the same name; "
    "anuncios_longos: the same with sentences about delivery, payment and the like below, other ones than those that "
    "train"
)
# fonte: (licenca, origem)
ORIGIN = {
    "prodclass": ("MIT (PyPI); README deixa em aberto", "PyPI prodclass 0.1.6, Gilsiley Henrique Darú"),
    "taxonomia-google": ("não declarada", "Google product taxonomy pt-BR, 2015-02-19"),
    "produtos.csv": ("CC BY-NC-SA 4.0", "Prática DevOps com Docker para Machine Learning"),
    "listings-train": ("MIT", "escritos para este projeto"),
}
Floats = NDArray[np.float64]


def typed(item: Item) -> str:
    """Return the text that a seller's form sends: of a listing titulo and descricao, of the others the name alone."""
    return f"{item.titulo} {item.descricao}".strip() if item.fonte.startswith("listings") else item.titulo


def sources(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return the card's list of sources with the rows that each gave."""
    rows = Counter(item.fonte for item in items)
    return [
        {"fonte": fonte, "linhas": rows[fonte], "licenca": licenca, "origem": origem}
        for fonte, (licenca, origem) in ORIGIN.items()
        if rows[fonte]
    ]


def reliability(confidence: Floats, right: NDArray[np.bool_]) -> tuple[float, list[tuple[float, int, float, float]]]:
    """Return the expected calibration error and its bins (lower edge, rows, mean confidence, accuracy).

    ECE = sum over BINS equal bins of rows / all * |accuracy - mean confidence| (Guo et al. 2017).
    """
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for b in range(BINS):
        inside = number == b
        if inside.any():
            bins.append((b / BINS, int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean())))
    return sum(rows * abs(accuracy - mean) for _, rows, mean, accuracy in bins) / len(confidence), bins


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def measure(
    vect: FeatureUnion,
    clf: LogisticRegression,
    limiar: float,
    parts: dict[str, list[Item]],
    noises: dict[str, list[str]],
    phrases: dict[str, str],
) -> tuple[dict[str, Any], str]:
    """Return the card's `qualidade` and the report in Markdown, of parts that the model has not seen."""
    categorias = [str(categoria) for categoria in clf.classes_]
    qualidade: dict[str, Any] = {"divisao": SPLIT}
    lines = ["# How good the model is", "", "Made by `make model`; do not edit.", "", f"Split: {SPLIT}.", ""]
    lines += ["| held-out part | rows | accuracy % | macro-F1 % | ECE % | incerto % | right of the others % |"]
    lines += ["|---|---|---|---|---|---|---|"]
    details = []
    for name, items in parts.items():
        if not items:
            continue
        truth = np.array([item.categoria for item in items])
        probabilities = clf.predict_proba(vect.transform([typed(item) for item in items]))
        answer, confidence = clf.classes_[probabilities.argmax(axis=1)], probabilities.max(axis=1)
        right, sure = answer == truth, confidence >= limiar
        present = sorted(set(truth.tolist()))
        columns = precision_recall_fscore_support(truth, answer, labels=present, zero_division=0)
        ece, bins = reliability(confidence, right)
        figures = {
            "linhas": len(items),
            "acuracia": float(right.mean()),
            "f1_macro": float(columns[2].mean()),
            "ece": ece,
            "incerto": float((~sure).mean()),
            "precisao_dos_certos": float(right[sure].mean()) if sure.any() else 1.0,
        }
        per_category = {
            categoria: {"precisao": float(p), "revocacao": float(r), "f1": float(f), "linhas": int(n)}
            for categoria, p, r, f, n in zip(present, *columns, strict=True)
        }
        qualidade[name] = {**figures, "categorias": per_category}
        shares = " | ".join(_percent(value) for key, value in figures.items() if key != "linhas")
        lines.append(f"| {name} | {len(items)} | {shares} |")
        details += ["", f"## {name}", ""]
        details += ["| category | rows | precision % | recall % | F1 % |", "|---|---|---|---|---|"]
        details += [
            f"| {c} | {v['linhas']} | {_percent(v['precisao'])} | {_percent(v['revocacao'])} | {_percent(v['f1'])} |"
            for c, v in per_category.items()
        ]
        details += [
            "",
            "Confusion matrix (rows: the right category; columns: the answer, in the same order):",
            "",
            "```",
        ]
        width = max(len(c) for c in categorias)
        for c, row in zip(categorias, confusion_matrix(truth, answer, labels=categorias), strict=True):
            details.append(f"{c:{width}} " + " ".join(f"{count or '.':>5}" for count in row))
        details += ["```", "", "| confidence from | rows | mean confidence % | accuracy % |", "|---|---|---|---|"]
        details += [f"| {low:.1f} | {rows} | {_percent(mean)} | {_percent(acc)} |" for low, rows, mean, acc in bins]
    doubt = {k: float((clf.predict_proba(vect.transform(v)).max(axis=1) < limiar).mean()) for k, v in noises.items()}
    qualidade["ruido"] = {
        "linhas": sum(map(len, noises.values())),
        "incerto": float(np.mean(list(doubt.values()))),
        "tipos": doubt,
    }
    lines += ["", f"`incerto` is a confidence under {limiar:.3f}. Noise that is `incerto`: "]
    lines[-1] += ", ".join(f"{kind} {_percent(share)} %" for kind, share in doubt.items()) + "."
    answers = dict(zip(phrases, clf.predict(vect.transform(list(phrases))).tolist(), strict=True))
    qualidade["frases_certas"] = sum(answers[phrase] == categoria for phrase, categoria in phrases.items())
    lines += ["", "Golden phrases: " + "; ".join(f"{phrase} → {answer}" for phrase, answer in answers.items()) + "."]
    return qualidade, "\n".join([*lines, *details, ""])
