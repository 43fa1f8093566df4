"""Make text that names no product: to teach the model doubt, and, with other seeds and sentences, to measure it."""

import random
from collections.abc import Callable
from pathlib import Path

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_CONSONANTS = "bcdfghjklmnpqrstvwxz"
_SCRIPTS = {  # first and last letter of a block of Unicode
    "cirílico": (0x0430, 0x044F),
    "grego": (0x03B1, 0x03C9),
    "árabe": (0x0627, 0x064A),
    "chinês": (0x4E00, 0x9FA5),
    "japonês": (0x3042, 0x3093),
}
TALK = Path(__file__).parent / "shop-talk-train.txt"
TALK_TEST = Path(__file__).parent / "shop-talk-test.txt"
_PUNCTUATION = ".,;:!?-_/*#@$%&()[]+=~^'\"|<>"


def _keyboard(rng: random.Random) -> str:
    """Return neighbours on the keyboard, as fingers that drum on one row or wander over all three."""
    row, column = rng.randrange(3), rng.randrange(7)
    keys = []
    for _ in range(rng.randint(3, 10)):
        keys.append(_ROWS[row][column % len(_ROWS[row])])
        column += rng.choice((-1, 1, 1, 2))
        if rng.random() < 0.15:
            row = rng.randrange(3)
    return "".join(keys)


def _letters(rng: random.Random) -> str:
    return "".join(rng.choices(_LETTERS, k=rng.randint(3, 11)))


def _consonants(rng: random.Random) -> str:
    return "".join(rng.choices(_CONSONANTS, k=rng.randint(3, 9)))


def _syllables(rng: random.Random) -> str:
    """Return what can be pronounced and yet means nothing."""
    return "".join(rng.choice(_CONSONANTS) + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))


def _mixed(rng: random.Random) -> str:
    return "".join(rng.choices(_LETTERS + "0123456789", k=rng.randint(4, 12)))


def _repeated(rng: random.Random) -> str:
    """Return one letter held down, or two or three in turn."""
    return "".join(rng.sample(_LETTERS, rng.choice((1, 1, 2, 3)))) * rng.randint(3, 8)


def _digits(rng: random.Random) -> str:
    return "".join(rng.choices("0123456789", k=rng.randint(1, 13)))


def _punctuation(rng: random.Random) -> str:
    return "".join(rng.choices(_PUNCTUATION, k=rng.randint(1, 6)))


def _emoji(rng: random.Random) -> str:
    return "".join(chr(rng.randint(0x1F300, 0x1F64F)) for _ in range(rng.randint(1, 4)))


def _script(first: int, last: int) -> Callable[[random.Random], str]:
    return lambda rng: "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(2, 9)))


KINDS: dict[str, Callable[[random.Random], str]] = {
    "teclado": _keyboard,
    "letras": _letters,
    "consoantes": _consonants,
    "sílabas": _syllables,
    "repetição": _repeated,
    "letras e dígitos": _mixed,
    "dígitos": _digits,
    "pontuação": _punctuation,
    "emoji": _emoji,
    **{name: _script(*block) for name, block in _SCRIPTS.items()},
}


def noise(kind: str, count: int, seed: int) -> list[str]:
    """Return `count` texts of one kind, each of noise words, mostly 1 to 8, of five one of up to 200.

    They are the same for the same kind, count and seed.
    """
    rng = random.Random(f"{kind} {seed}")
    most = [8, 8, 8, 8, 200]
    return [
        _case(" ".join(KINDS[kind](rng) for _ in range(rng.randint(1, rng.choice(most)))), rng) for _ in range(count)
    ]


def shop_talk(path: Path, count: int, seed: int) -> list[str]:
    """Return `count` texts of 1 to 12 of a file's sentences, as sellers put under any product, one sentence a line."""
    rng = random.Random(seed)
    sentences = path.read_text(encoding="utf-8").splitlines()
    return [" ".join(rng.sample(sentences, rng.randint(1, 12))) for _ in range(count)]


def _case(text: str, rng: random.Random) -> str:
    return rng.choice((text, text, text.upper(), text.capitalize()))
