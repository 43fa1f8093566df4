"""Files that are made once and kept beside the code: compiled models and compiled C. The image has them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE / ".cache"


@contextlib.contextmanager
def made_once(name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """Yield the file of this name, which `make` writes where it is not there yet.

    The name must hold a hash of all that the file depends on, so that a stale one is never used. Where this disk may
    not be written, the file is gone again after this.
    """
    kept = CACHE / name
    if kept.exists():
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, name)
        make(made)
        part = kept.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            CACHE.mkdir(exist_ok=True)
            part.write_bytes(made.read_bytes())
            part.replace(kept)
        with contextlib.suppress(OSError):  # half a file, where the disk was full
            part.unlink()
        yield made
