"""Files that are made once and kept beside the code: compiled models and compiled C. The image has them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).parent
CACHE = HERE / ".cache"
T = TypeVar("T")


def made_once(name: str, make: Callable[[Path], None], load: Callable[[Path], T]) -> T:
    """Return what `load` makes of the file of this name, which `make` writes where it is not there yet.

    The name must hold a hash of all that the file depends on, so that a stale one is never used. One that load cannot
    read, for which it must raise OSError, is made again; where this disk may not be written, it is made each time.
    """
    with contextlib.suppress(OSError):
        return load(CACHE / name)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, name)
        make(made)
        with contextlib.suppress(OSError):
            _keep(made)
            return load(CACHE / name)  # not `made`, which may lie where nothing may be executed
        return load(made)


def _keep(made: Path) -> None:
    """Copy a file into the cache, which never has half of it under its name."""
    CACHE.mkdir(exist_ok=True)
    number, part = tempfile.mkstemp(dir=CACHE)
    try:
        with open(number, "wb") as file:
            file.write(made.read_bytes())
            file.flush()
            os.fsync(number)
        os.chmod(part, 0o644)  # a checkout may be run by others than who made it
        os.replace(part, CACHE / made.name)
    except OSError:
        os.unlink(part)
        raise
