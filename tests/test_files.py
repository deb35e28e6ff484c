"""A file is seen whole: the old one or the new one, and nothing beside it."""

import os

import pytest

from qlib.files import whole, write_whole


def test_a_file_is_written_with_its_line_ends_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("one\r\ntwo\n", "é"):
        write_whole(path, text)
        assert path.read_bytes() == text.encode() and os.listdir(tmp_path) == ["a.txt"]
    write_whole(str(path), "by its name")
    assert path.read_text("utf8") == "by its name"


def test_nothing_is_seen_before_the_block_has_ended(tmp_path):
    path = tmp_path / "a.bin"
    with whole(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path and not path.exists()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), whole(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "half")
    assert path.read_text("utf8") == "old" and os.listdir(tmp_path) == ["a.txt"]
