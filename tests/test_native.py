"""Unit: scorer.c is compiled once, says why it cannot be, and stays within its memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with no more than what compiles scorer.c, and a compiler that notes each call."""
    for name in ("cache.py", "native.py", "scorer.c"):
        shutil.copy(ROOT / name, tmp_path)
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\necho >> "{tmp_path}/calls"\nexec cc "$@"\n')
    compiler.chmod(0o755)
    return tmp_path


def load(checkout: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CC": str(checkout / "cc")} | settings
    command = [sys.executable, "-c", "import native; print(native.learn.restype)"]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)


def calls(checkout: Path) -> int:
    return len((checkout / "calls").read_text().splitlines())


def test_compiled_once_and_again_when_it_or_its_flags_change(checkout: Path) -> None:
    assert [load(checkout).stdout, load(checkout).stdout, calls(checkout)] == ["None\n", "None\n", 1]

    assert load(checkout, CFLAGS="-O1").returncode == 0
    assert calls(checkout) == 2

    (checkout / "scorer.c").write_text((checkout / "scorer.c").read_text() + "\n")
    assert load(checkout).returncode == 0
    assert calls(checkout) == 3


def test_where_nothing_may_be_kept_it_is_compiled_each_time(checkout: Path) -> None:
    (checkout / ".cache").write_text("a file, in which root too can keep nothing")

    assert [load(checkout).returncode, load(checkout).returncode, calls(checkout)] == [0, 0, 2]


def test_without_a_compiler_it_says_so(checkout: Path) -> None:
    ended = load(checkout, CC="/nowhere/cc")

    assert "NativeError: scorer.c needs a C compiler: /nowhere/cc: No such file or directory" in ended.stderr


def test_what_does_not_compile_says_why(checkout: Path) -> None:
    (checkout / "scorer.c").write_text("int add(;\n")

    assert "NativeError: scorer.c cannot be compiled: " in load(checkout).stderr
    assert not list(checkout.glob(".cache/*.so"))


def test_no_text_or_model_makes_it_leave_its_memory() -> None:
    found = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {
        "CFLAGS": "-g -fsanitize=address,undefined -fno-sanitize-recover=all",
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself leaves much for the end
    }

    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_scorer.py",
        "--texts=500",
        "-k=not shipped",
    ]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)

    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    assert " passed" in run.stdout
