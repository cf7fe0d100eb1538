"""Whole files: old or new after a crash, written only when they change."""

import errno
import os

import pytest

from stable_ssl.files import add_name, replacing, replacing_folder, write_atomically


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "new" / "file", []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(path.exists()) or fsync(fd))
    write_atomically(path, "é")
    assert path.read_bytes() == "é".encode()
    assert seen == [False, False, True]  # its folder's name, the file, its own name
    assert os.listdir(path.parent) == ["file"]


def test_a_file_that_did_not_change_is_left_alone(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "same")
    before = path.stat()
    write_atomically(path, b"same")
    assert path.stat() == before
    write_atomically(path, "sane")
    assert path.read_text() == "sane" and path.stat().st_ino != before.st_ino


def test_what_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_name_where_the_file_system_has_no_links(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_atomically(tmp_path / "file", "content")
    add_name(tmp_path / "file", "other")
    assert (tmp_path / "other").read_text() == "content"
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_folder_whose_replacement_was_killed_is_the_old_one(
    tmp_path, monkeypatch, renames
):
    folder, left, replace = tmp_path / "folder", [renames], os.replace

    def mortal(*paths):
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedError
        replace(*paths)

    with replacing_folder(folder) as new:
        (new / "old").touch()
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(os, "replace", mortal)
        with replacing_folder(folder) as new:
            (new / "new").touch()
    with pytest.raises(ZeroDivisionError), replacing_folder(folder):
        raise ZeroDivisionError
    assert os.listdir(folder) == ["old"] and os.listdir(tmp_path) == ["folder"]
    with replacing_folder(folder) as new:
        (new / "new").touch()
    assert os.listdir(folder) == ["new"] and os.listdir(tmp_path) == ["folder"]
