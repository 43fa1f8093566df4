"""Keep near-duplicates together: on one side of the split, and out of the listings that train."""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from training.data import Item

TEST_SHARE = 0.2
SPLIT_SOURCES = ("prodclass", "produtos.csv")  # the others are small and only train
COPY_OVERLAP = 0.6  # Jaccard overlap of two listings' words from which one is a near-copy of the other

# Units, packings and little words: what may differ between two lines for the same product.
_FILLERS = frozenset(
    "a as o os e em de da do das dos na no com c sem s para p por um uma n kg g gr grs mg ml l lt lts cm m mm mt mts "
    "un und unid pc pcs pct pec pe cx x".split()
)


def words(text: str) -> frozenset[str]:
    """Return a text's words: accents and case off, and no digits, punctuation, units or little words."""
    plain = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    return frozenset(re.findall(r"[a-z]+", plain)) - _FILLERS


def near_key(text: str) -> str:
    """Return the key that near-duplicates share: the words in order, or the text itself where it has none."""
    return " ".join(sorted(words(text))) or text.strip().lower()


def merge(items: Iterable[Item]) -> list[Item]:
    """Return one item for each near-duplicate titulo of a source: the first of its commonest category."""
    same: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        same[item.fonte, near_key(item.titulo)].append(item)
    kept = []
    for copies in same.values():
        # most_common keeps the order of the file among equals
        commonest = Counter(item.categoria for item in copies).most_common(1)[0][0]
        kept.append(next(item for item in copies if item.categoria == commonest))
    return kept


def split(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Return (train, test): TEST_SHARE of each category of receipts and book, the same every time.

    A titulo's near_key is drawn by its hash, so neither order nor seed matters, and whatever of any source has the key
    of a test item is on no other side. A key that a text of another source has too trains.
    """
    pinned = {near_key(item.titulo) for item in items if item.fonte not in SPLIT_SOURCES}
    cells: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for item in items:
        key = near_key(item.titulo)
        if item.fonte in SPLIT_SOURCES and key not in pinned:
            cells[item.fonte, item.categoria].add((hashlib.sha256(key.encode()).hexdigest(), key))
    held = {key for cell in cells.values() for _, key in sorted(cell)[: round(len(cell) * TEST_SHARE)]}
    train = [item for item in items if near_key(item.titulo) not in held]
    test = [item for item in items if near_key(item.titulo) in held]
    return train, test


def overlap(a: frozenset[str], b: frozenset[str]) -> float:
    """Return the Jaccard overlap of two sets of words, 0 to 1 (0 for two empty ones)."""
    return len(a & b) / len(a | b) if a | b else 0.0


def without_copies(train: Sequence[Item], test: Sequence[Item]) -> list[Item]:
    """Return the listings of `train` that are no near-copy of one in `test`, by titulo or by the whole text."""
    held = [(words(item.titulo), words(f"{item.titulo} {item.descricao}")) for item in test]
    sharing: dict[str, set[int]] = defaultdict(set)  # only those that share a word can be copies
    for number, (_, whole) in enumerate(held):
        for word in whole:
            sharing[word].add(number)
    kept = []
    for item in train:
        title, whole = words(item.titulo), words(f"{item.titulo} {item.descricao}")
        near = {number for word in whole for number in sharing.get(word, ())}
        if all(max(overlap(title, held[n][0]), overlap(whole, held[n][1])) < COPY_OVERLAP for n in near):
            kept.append(item)
    return kept
