"""Writing files so that a crash or a full disk leaves the old file or the new one, whole."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedsc.errors import RunError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make an error of the system, while ``path`` is being written, a sentence that names it.

    Raises
    ------
    RunError
        If it cannot be written, saying why.
    """
    try:
        yield
    except OSError as error:
        raise _cannot("write", path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a partial file to write; it takes the place of ``path`` when the block ends well.

    A partial file left over from a crash is overwritten; none is left by an error.

    Parameters
    ----------
    path
        Where the whole file is to stand; its folder exists.

    Raises
    ------
    RunError
        If it cannot be written, saying why.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with writing(path):
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        with suppress(OSError):  # none is there, or the file system takes no changes
            partial.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; the others wait.

    The system releases the lock when the process ends, however it ends.

    Parameters
    ----------
    path
        The lock's file, which stays; its folder is made.
    """
    import fcntl  # of POSIX, where labs and servers run

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def replace(path: Path, *content: bytes | memoryview) -> None:
    """Write a whole file, its parts one after the other, in the place of ``path``.

    Raises
    ------
    RunError
        As :func:`replacing`.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        file.writelines(content)


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file, in one write, so lines of several processes do not mix.

    It is on the disk when this returns.

    Parameters
    ----------
    path
        The file, made where there is none. A last line that a full disk or a crash cut off is
        ended first, so it spoils no other.
    line
        Without its end.

    Raises
    ------
    RunError
        If it cannot be written whole, saying why.
    """
    with writing(path), path.open("ab+", buffering=0) as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        end = b"" if file.read(1) in (b"", b"\n") else b"\n"
        rest = end + line + b"\n"
        while rest:  # the disk takes a part only when it is full, and the next write says so
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def link(path: Path, name: Path) -> None:
    """Give a file a second name, in the place of what stands there; a copy where none can be given.

    Each name stays when another file takes the other.

    Raises
    ------
    RunError
        If it cannot be, saying why.
    """
    spare = name.with_name(f".{name.name}.partial")
    with writing(name):
        with suppress(OSError):  # nothing stands there, as a rule
            os.link(path, name)
            return
        spare.unlink(missing_ok=True)
        try:
            os.link(path, spare)
        except OSError:  # a file system without links
            shutil.copyfile(path, spare)
        os.replace(spare, name)


def make_folder(path: Path, mode: int = 0o777) -> Path:
    """Make a folder where there is none, and give it; ``mode`` says who may use a new one.

    Raises
    ------
    RunError
        If it cannot be made, saying why.
    """
    try:
        path.mkdir(mode, parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot("make the folder", path, error) from error
    return path


@contextmanager
def filling(path: Path) -> Iterator[None]:
    """Make a folder for what the block writes; an error leaves no new one that is empty.

    Raises
    ------
    RunError
        If it cannot be made, saying why.
    """
    new = not path.exists()
    make_folder(path)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # something is in it
                path.rmdir()
        raise


def identity(*paths: Path) -> tuple[tuple[str, int, int], ...]:
    """Name the content of files, or of the files in a folder: it differs once one has changed.

    Folders inside a folder do not count.

    Returns
    -------
    tuple
        Path, bytes and time of the last change (ns) of every file, sorted by path; -1 and -1 of
        one that is not there.
    """
    files: list[Path] = []
    for path in paths:
        files += [f for f in path.iterdir() if not f.is_dir()] if path.is_dir() else [path]
    return tuple(_identity(file) for file in sorted(files))


def _identity(file: Path) -> tuple[str, int, int]:
    try:
        found = file.stat()
    except FileNotFoundError:  # or gone since it was listed
        return str(file.resolve()), -1, -1
    return str(file.resolve()), found.st_size, found.st_mtime_ns


def _cannot(what: str, path: Path, error: OSError) -> RunError:
    """Say what the system said; HDF5 hides it in a text of many lines, which may quote paths."""
    code = error.errno
    why = error.strerror or (str(error).strip().splitlines() or ["unknown reason"])[0]
    for full in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        if code == full or f"errno = {full}," in str(error):
            code, why = full, f"{os.strerror(full)}; free some space"
    outside = f"cannot {what} at the lab: "
    outside += os.strerror(code) if code else "its own log says why"
    return RunError(f"cannot {what} {path}: {why}", outside)
