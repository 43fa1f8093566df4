"""Unit: what is made once is kept whole, and made again where it cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

import cache
from cache import made_once


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "CACHE", tmp_path / "kept")
    return tmp_path / "kept"


def write(path: Path) -> None:
    path.write_text("whole")


def load(path: Path) -> tuple[Path, str]:
    text = path.read_text()
    if text != "whole":
        raise OSError(text)
    return path, text


def test_made_once_and_loaded_from_where_it_is_kept(folder: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("whole")

    assert [made_once("a", make, load) for _ in range(2)] == [(folder / "a", "whole")] * 2
    assert len(made) == 1
    assert [path.name for path in folder.iterdir()] == ["a"]  # and nothing half


def test_one_that_cannot_be_read_is_made_again(folder: Path) -> None:
    folder.mkdir()
    (folder / "a").write_text("half")

    assert made_once("a", write, load) == (folder / "a", "whole")


def test_where_nothing_can_be_kept_it_is_made_each_time(folder: Path) -> None:
    folder.write_text("a file, in which root too can keep nothing")
    made = [made_once("a", write, load) for _ in range(2)]

    assert [text for _, text in made] == ["whole", "whole"]
    assert made[0][0] != made[1][0]


def test_what_fails_to_be_made_leaves_nothing(folder: Path) -> None:
    def make(path: Path) -> None:
        path.write_text("half")
        raise KeyError

    with pytest.raises(KeyError):
        made_once("a", make, load)

    assert not folder.exists()
