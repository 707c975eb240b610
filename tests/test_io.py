"""Atomic writes: after an error the previous file is unchanged."""

from __future__ import annotations

import pytest

from mrcnn.io import replacing


def test_the_new_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "second"):
        with replacing(path) as unfinished:
            unfinished.write_text(text)
            assert unfinished.parent == path.parent and unfinished.suffix == ".part"
            assert text == "first" or path.read_text() == "first"
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_an_error_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(str(path)) as unfinished:
        unfinished.write_text("ha")
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        pass
