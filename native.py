"""scorer.c for Python: compiles it where that is not done yet, and declares what it holds."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
from ctypes import POINTER, c_bool, c_char_p, c_double, c_int32, c_uint16, c_uint32, c_uint64, c_void_p
from pathlib import Path

from cache import HERE, made_once

SOURCE = HERE / "scorer.c"
# No fused multiply-add, which arm64 has and amd64 has not: the scores are the same on both.
FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fPIC", "-shared"]

# In scorer.c's enums' order.
ANALYZERS = ["word", "char", "char_wb"]
NORMS = [None, "l1", "l2"]
LINKS = ["none", "softmax", "sigmoid", "huber"]


class NativeError(RuntimeError):
    """scorer.c cannot be compiled or loaded; the message says why. gunicorn prints a RuntimeError as one line."""


class Block(ctypes.Structure):
    """scorer.c's struct block, which says what the fields are."""

    _fields_ = [
        *((name, c_void_p) for name in ("slots", "idf", "weights", "counts", "columns", "values", "words", "parts")),
        *((name, c_uint64) for name in ("slot_count", "column_mask", "seed", "word_count")),
        ("scale", c_double),
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
    command = [os.environ.get("CC", "cc"), *FLAGS, *shlex.split(os.environ.get("CFLAGS", ""))]
    key = hashlib.sha256(repr([SOURCE.read_bytes(), command, platform.machine(), platform.libc_ver()]).encode())

    def make(path: Path) -> None:
        try:
            done = subprocess.run([*command, "-o", str(path), str(SOURCE), "-lm"], stderr=subprocess.PIPE, text=True)
        except OSError as error:
            raise NativeError(f"scorer.c needs a C compiler: {command[0]}: {error.strerror}") from None
        if done.returncode:
            raise NativeError(f"scorer.c cannot be compiled: {' '.join(done.stderr.split())[:500]}")

    with made_once(f"scorer-{key.hexdigest()}.so", make) as path:
        try:
            return ctypes.PyDLL(str(path))
        except OSError as error:
            raise NativeError(f"scorer.c, compiled, cannot be loaded: {error}") from None


_library = load()

learn = _library.learn
learn.argtypes, learn.restype = [POINTER(Block), c_char_p, c_void_p, c_int32], None
locate = _library.locate
locate.argtypes = [POINTER(Block), c_char_p, c_int32, c_void_p, c_int32]
transform = _library.transform
transform.argtypes = [POINTER(Block), c_char_p, c_int32]
add = _library.add
add.argtypes, add.restype = [POINTER(Block), c_char_p, c_int32, POINTER(c_double)], None
add_latin = _library.add_latin
add_latin.argtypes, add_latin.restype = [POINTER(Model), c_char_p, c_int32, POINTER(c_double)], c_bool
conclude = _library.conclude
conclude.argtypes = [POINTER(Model), POINTER(c_double), POINTER(c_double)]
