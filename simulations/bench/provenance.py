"""What a result is made from: digests of the code and of the data, for the name of a cell."""

import ast
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fedsc.data.registry import find
from fedsc.files import identity

_ROOT = Path(__file__).parents[2]
_ROOMS = ("fedsc", "protocol", "client_app", "server_app", "partitioning")
_FILES = ("simulations/inprocess.py", "simulations/bench/cell.py")
_SHOWN_ONLY = ("fedsc/cli/", "fedsc/plots/")  # decides no result
_LENGTH = 8


@cache
def code_digest(method: str) -> str:
    """Digest the code that decides results, as it was when it was first asked for.

    Comments, docstrings and layout do not count.

    Parameters
    ----------
    method
        Of one's own, ``module:ATTRIBUTE``, that module's file counts too, and those beside it that
        it imports.
    """
    total = hashlib.sha256(_own_code().encode())
    module, colon, _ = method.partition(":")
    for file in _files_of(module) if colon else []:
        total.update(_code(file).encode())
    return total.hexdigest()[:_LENGTH]


def data_digest(dataset: str) -> str:
    """Digest the bytes of a set; ``"absent"`` where it is not on this machine.

    Parameters
    ----------
    dataset
        As :func:`fedsc.data.registry.resolve` takes it; nothing is downloaded.
    """
    path = Path(dataset).expanduser()
    found = path if dataset and path.exists() else find(dataset)
    return _data(found, identity(found)) if found else "absent"


@cache
def _own_code() -> str:
    files = [path for room in _ROOMS for path in (_ROOT / room).rglob("*.py")]
    files += [_ROOT / file for file in _FILES]
    named = {path.relative_to(_ROOT).as_posix(): path for path in files}
    total = hashlib.sha256()
    for name in sorted(name for name in named if not name.startswith(_SHOWN_ONLY)):
        total.update(f"{name}\n{_code(named[name])}\n".encode())
    return total.hexdigest()


def _code(path: Path) -> str:
    """Give a file's code without comments, docstrings and layout."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _files_of(module: str) -> list[Path]:
    """Give a module's file and, of its folder, those that it imports, or that these import."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # the run will say so
        return []
    files = [Path(spec.origin)] if spec and spec.origin else []
    for file in files:  # which grows
        words = _imported(ast.parse(file.read_bytes()))
        beside = sorted(file.parent.glob("*.py"))
        files += [other for other in beside if other.stem in words and other not in files]
    return files


def _imported(tree: ast.Module) -> set[str]:
    """Give every part of every name that is imported."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {part for name in names for part in name.split(".")}


@cache
def _data(path: Path, _identity: tuple[tuple[str, int, int], ...]) -> str:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in (file for file in files if file.is_file()):
        total.update(f"{file.relative_to(path)}\n".encode())
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()[:_LENGTH]
