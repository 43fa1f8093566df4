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
    (tmp_path / "bin").mkdir()
    compiler = tmp_path / "bin" / "cc"
    compiler.write_text(f'#!/bin/sh\necho >> "{tmp_path}/calls"\nexec {shutil.which("cc")} "$@"\n')
    compiler.chmod(0o755)
    return tmp_path


def load(checkout: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{checkout}/bin:{os.environ['PATH']}"} | settings
    command = [sys.executable, "-c", "import native; print(native.add.restype)"]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)


def calls(checkout: Path) -> int:
    return len((checkout / "calls").read_text().splitlines())


def test_compiled_once_and_again_when_it_changes(checkout: Path) -> None:
    assert [load(checkout).stdout, load(checkout).stdout, calls(checkout)] == ["None\n", "None\n", 1]

    (checkout / "scorer.c").write_text((checkout / "scorer.c").read_text() + "\n")
    assert load(checkout).returncode == 0
    assert calls(checkout) == 2


def test_where_nothing_may_be_kept_it_is_compiled_each_time(checkout: Path) -> None:
    (checkout / ".cache").write_text("a file, in which root too can keep nothing")

    assert [load(checkout).returncode, load(checkout).returncode, calls(checkout)] == [0, 0, 2]


@pytest.mark.parametrize("content", [b"", b"no library"])
def test_kept_one_that_cannot_be_loaded_is_made_again(checkout: Path, content: bytes) -> None:
    load(checkout)
    (kept,) = (checkout / ".cache").iterdir()
    kept.write_bytes(content)

    assert [load(checkout).stdout, load(checkout).stdout, calls(checkout)] == ["None\n", "None\n", 2]
    assert kept.stat().st_mode & 0o444 == 0o444  # for whatever user runs the checkout next


def test_without_a_compiler_it_says_so(checkout: Path) -> None:
    ended = load(checkout, PATH="/nowhere")

    assert "NativeError: scorer.c needs a C compiler: cc: No such file or directory" in ended.stderr


@pytest.mark.parametrize(("broken", "why"), [("scorer.c", "error: "), ("bin/cc", "cc ended with 1")])
def test_what_does_not_compile_says_why(checkout: Path, broken: str, why: str) -> None:
    (checkout / broken).write_text("#!/bin/false\nint add(;\n")

    ended = load(checkout)

    assert "NativeError: scorer.c cannot be compiled: " in ended.stderr
    assert why in ended.stderr
    assert not list(checkout.glob(".cache/*"))


def test_no_text_or_model_makes_it_leave_its_memory(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*_cache", ".git", ".venv", ".cache"))
    native = (checkout / "native.py").read_text()
    (checkout / "native.py").write_text(
        native.replace('"-O3"', '"-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"')
    )
    sanitizer = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {
        "LD_PRELOAD": sanitizer.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
    }  # Python leaves much behind

    command = [sys.executable, "-m", "pytest", "-q", "tests/test_scorer.py", "--texts=500", "-k=not shipped"]
    run = subprocess.run(command, cwd=checkout, env=os.environ | environment, capture_output=True, text=True)

    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    assert " passed" in run.stdout
    assert "__asan" in next((checkout / ".cache").glob("*.so")).read_bytes().decode("latin-1")
