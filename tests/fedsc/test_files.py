import errno

import pytest

from fedsc.errors import RunError
from fedsc.files import make_folder, replace, replacing, writing


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    replace(path, b"old")
    with replacing(path) as partial:
        partial.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        partial.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_partial_file_of_a_crash_is_overwritten(tmp_path):
    path = tmp_path / "file"
    (tmp_path / ".file.partial").write_bytes(b"left over, and longer than what comes now")
    replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "x"), "No space left on device; free some space"),
        (OSError(errno.EFBIG, "x"), "File too large; free some space"),
        (OSError("Can't write data (errno = 28, error message = 'no')"), "No space left"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError(errno.EIO, "no (filename = '{path}')"), "no .filename"),
        (OSError(), "unknown reason"),
    ],
)
def test_an_error_of_the_system_is_a_sentence_and_leaves_the_old_file(tmp_path, error, words):
    path = tmp_path / "file"
    replace(path, b"old")

    if error.strerror:  # HDF5 quotes the path
        error = OSError(error.errno, error.strerror.format(path=path))

    def fill():
        with replacing(path) as partial:
            partial.write_bytes(b"half")
            raise error

    with pytest.raises(RunError, match=f"cannot write .*file: {words}") as told:
        fill()
    assert told.value.outside.startswith("cannot write at the lab: ")
    assert str(tmp_path) not in told.value.outside
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_pass_and_leave_no_partial_file(tmp_path):
    def stumble():
        with replacing(tmp_path / "file") as partial:
            partial.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stumble()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert make_folder(tmp_path / "a" / "b").is_dir()
    with pytest.raises(RunError, match="cannot make the folder"):
        make_folder(tmp_path / "file" / "b")


def test_a_file_system_that_takes_no_changes_is_a_sentence(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(RunError, match=r"cannot write .*file: Read-only file system"):
        replace(tmp_path / "file", b"new")
    with (
        pytest.raises(RunError, match=r"cannot write .*folder: Read-only file system"),
        writing(tmp_path / "folder"),
    ):
        (tmp_path / "folder" / "file").open("w")


def test_a_new_folder_is_for_whom_it_is_to_be_for(tmp_path):
    assert make_folder(tmp_path / "own", 0o700).stat().st_mode & 0o777 == 0o700
