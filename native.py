"""scorer.c for Python: compiles it where that is not done yet, and declares what it holds."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import subprocess
from ctypes import POINTER, c_bool, c_char_p, c_double, c_int32, c_uint16, c_uint32, c_uint64, c_void_p
from pathlib import Path

from cache import HERE, made_once

SOURCE = HERE / "scorer.c"
# No fused multiply-add, which arm64 has and amd64 need not have: the sums are the same on both.
COMPILE = ["cc", "-std=c11", "-O3", "-ffp-contract=off", "-fPIC", "-shared"]

# In scorer.c's enums' order.
ANALYZERS = ["word", "char", "char_wb"]
NORMS = [None, "l1", "l2"]
LINKS = ["none", "softmax", "sigmoid", "huber"]


class NativeError(RuntimeError):
    """scorer.c cannot be compiled or loaded; the message says why. gunicorn prints a RuntimeError as one line."""


class Index(ctypes.Structure):
    """scorer.c's struct index; it says what the fields of all three are."""

    _fields_ = [("places", c_void_p), ("count", c_uint64), ("lower_bits", c_uint64)]


class Block(ctypes.Structure):
    """scorer.c's struct block."""

    _fields_ = [
        *((name, Index) for name in ("terms", "words")),
        *((name, c_void_p) for name in ("parts", "idf", "weights", "counts", "columns", "values")),
        ("seed", c_uint64),
        ("scale", c_double),
        *((name, c_int32) for name in ("part_row", "weight_row")),
        *((name, c_int32) for name in ("analyzer", "low", "high", "norm", "score_count", "shortest")),
        ("separator", c_uint32),
        *((name, c_bool) for name in ("binary", "sublinear", "adds_up", "single_values", "single_weights")),
        ("latin", c_uint16 * 256),
    ]


class Model(ctypes.Structure):
    """scorer.c's struct model."""

    _fields_ = [
        ("blocks", POINTER(Block)),
        ("intercept", c_void_p),
        *((name, c_int32) for name in ("block_count", "score_count", "class_count", "link")),
        ("single", c_bool),
    ]


def load() -> ctypes.PyDLL:
    """Return the compiled scorer.c. PyDLL keeps the GIL, on which its scratch memory relies."""
    key = hashlib.sha256(repr([SOURCE.read_bytes(), COMPILE, platform.machine()]).encode()).hexdigest()

    def compile_to(path: Path) -> None:
        try:
            done = subprocess.run([*COMPILE, "-o", path, SOURCE, "-lm"], stderr=subprocess.PIPE, text=True)
        except OSError as error:
            raise NativeError(f"scorer.c needs a C compiler: {COMPILE[0]}: {error.strerror}") from None
        if done.returncode:
            why = " ".join(done.stderr.split())[:500] or f"{COMPILE[0]} ended with {done.returncode}"
            raise NativeError(f"scorer.c cannot be compiled: {why}")

    try:
        return made_once(f"scorer-{key}.so", compile_to, lambda path: ctypes.PyDLL(str(path)))
    except OSError as error:
        raise NativeError(f"scorer.c, compiled, cannot be loaded: {error}") from None


_library = load()

learn_terms = _library.learn_terms
learn_terms.argtypes, learn_terms.restype = [POINTER(Block), c_char_p, c_void_p, c_int32], None
learn_words = _library.learn_words
learn_words.argtypes, learn_words.restype = [POINTER(Block), c_char_p, c_int32], None
locate = _library.locate
locate.argtypes = [POINTER(Block), c_char_p, c_int32, c_void_p, c_int32]
transform = _library.transform
transform.argtypes = [POINTER(Block), c_char_p, c_int32]
add = _library.add
add.argtypes, add.restype = [POINTER(Block), c_char_p, c_int32, POINTER(c_double)], None
conclude = _library.conclude
conclude.argtypes = [POINTER(Model), POINTER(c_double)]
judge_latin = _library.judge_latin
judge_latin.argtypes = [POINTER(Model), c_char_p, c_int32, POINTER(c_double)]
