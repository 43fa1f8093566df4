"""Read the sources of the default model and map each to its category."""

import csv
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

WHEEL = "prodclass-0.1.6-py3-none-any.whl"
RECEIPTS = "retail-br.csv"
CACHE = Path(".cache")
LISTINGS = Path(__file__).parent / "listings-train.csv"
LISTINGS_TEST = Path(__file__).parent / "listings-test.csv"

# Where the public copy of each source is, for the one line that a missing one gets.
PUBLIC_COPY = {
    "produtos.csv": "the book's repository, github MLOps-Education/bookdevopsml (make model BOOK=no does without)",
    "taxonomia-google.pt-BR.txt": "Google's public product taxonomy, pt-BR with ids, version 2015-02-19",
    "categorias.csv": "none: it is this project's own mapping, fonte;chave;categoria, and comes with the other two",
    RECEIPTS: "PyPI: pip download --no-deps prodclass==0.1.6, then prodclass/examples/retail-br.csv inside",
    LISTINGS.name: "this repository, folder training",
    LISTINGS_TEST.name: "this repository, folder training",
}


class Item(NamedTuple):
    """One product as its source has it; descricao is "" where the source has none."""

    fonte: str
    titulo: str
    descricao: str
    categoria: str


class MissingSource(Exception):
    """A source that is not there; its text says which one and where a public copy is."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"missing {path}; public copy: {PUBLIC_COPY[path.name]}")


def _rows(lines: Iterable[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(lines, delimiter=";"))


def _text(path: Path) -> io.StringIO:
    try:
        return io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")
    except FileNotFoundError:
        raise MissingSource(path) from None


def read_listings(path: Path) -> list[Item]:
    """Return the listings of a titulo;descricao;categoria file; raise MissingSource."""
    fonte = path.stem
    return [
        Item(fonte, row["titulo"].strip(), row["descricao"].strip(), row["categoria"].strip())
        for row in _rows(_text(path))
    ]


def longest_key(path: str, keys: dict[str, str]) -> str | None:
    """Return the category of the longest key that is the whole of "A > B > C" or its beginning, else None."""
    parts = path.split(" > ")
    for end in range(len(parts), 0, -1):
        categoria = keys.get(" > ".join(parts[:end]))
        if categoria is not None:
            return categoria
    return None


def read_taxonomy(path: Path, keys: dict[str, str]) -> list[Item]:
    """Return Google's category names: titulo the leaf, descricao its parent's name ("" at the top)."""
    items = []
    for line in _text(path):
        number, _, name = line.strip().partition(" - ")
        categoria = longest_key(name, keys) if number.isdigit() else None
        if categoria is not None:
            *parents, leaf = name.split(" > ")
            items.append(Item("taxonomia-google", leaf, parents[-1] if parents else "", categoria))
    return items


def _receipts_text(folder: Path) -> io.StringIO:
    """Return retail-br.csv: from the folder, from the wheel in it, or from the wheel that pip downloads."""
    if (folder / RECEIPTS).exists():
        return _text(folder / RECEIPTS)
    wheel = next((base / WHEEL for base in (folder, CACHE) if (base / WHEEL).exists()), None)
    if wheel is None:
        wheel = CACHE / WHEEL
        print(f"{RECEIPTS} is not in {folder}: fetching {WHEEL} into {CACHE}", file=sys.stderr)
        command = ["download", "--quiet", "--no-deps", "--dest", str(CACHE), "prodclass==0.1.6"]
        if subprocess.run([sys.executable, "-m", "pip", *command], check=False).returncode:
            raise MissingSource(folder / RECEIPTS)
    with zipfile.ZipFile(wheel) as archive:
        return io.StringIO(archive.read(f"prodclass/examples/{RECEIPTS}").decode("utf-8-sig"), newline="")


def read_sources(folder: Path, book: bool = True) -> list[Item]:
    """Return the items of every source, in file order.

    A key that `categorias.csv` does not cover is left out, on purpose (see the README of the data).
    Raise MissingSource for the first one that is not there.
    """
    keys: dict[str, dict[str, str]] = {}
    for row in _rows(_text(folder / "categorias.csv")):
        keys.setdefault(row["fonte"], {})[row["chave"]] = row["categoria"]
    items = read_taxonomy(folder / "taxonomia-google.pt-BR.txt", keys["taxonomia-google"])
    if book:
        for row in _rows(_text(folder / "produtos.csv")):
            categoria = keys["produtos.csv"][row["categoria"].strip()]
            items.append(Item("produtos.csv", row["nome"].strip(), row["descricao"].strip(), categoria))
    for row in _rows(_receipts_text(folder)):
        receipt = keys["prodclass"].get(row["categoria"].strip())
        if receipt is not None:
            items.append(Item("prodclass", row["nm_item"].strip(), "", receipt))
    return items
