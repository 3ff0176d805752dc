"""From the name of a data set, or a path, to a file on this machine."""

import difflib
import hashlib
import logging
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fedsc.data.catalogue import DATASETS, Dataset
from fedsc.errors import DataError
from fedsc.files import identity

LABEL_KEY = "cell_type"
_ENDINGS = (".h5ad", ".h5")
_FILES = (*_ENDINGS, ".loom", ".csv", ".tsv", ".txt", ".mtx", ".gz")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TIMEOUT = 30.0  # seconds without a byte
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a set lies and how to read it.

    Attributes
    ----------
    name
        The set's name, or the file's or folder's stem.
    path
        A file or 10x folder, or a folder with one file per lab.
    layer, label_key
        Defaults for :func:`fedsc.data.reading.read.read`; ``""`` = ``X``, no cell types known.
    subtypes_per_lab
        The paper's k for this set; ``None`` if there is none.
    known
        Whether it was found by its name, not by a path.
    """

    name: str
    path: Path
    layer: str = ""
    label_key: str = ""
    subtypes_per_lab: int | None = None
    known: bool = False


def resolve(dataset: str) -> Source:
    """Find a data set by path or by name; no expression is read.

    A path that exists wins; then a known name, looked for in ``$FEDSC_DATA``, then among the sets
    that come with FedSC and scanpy, then in the cache, then downloaded; a name not known here is
    looked for in ``$FEDSC_DATA`` alone. pooch cannot resume: a download that was cut off starts
    again from its first byte.

    Parameters
    ----------
    dataset
        Path of a file or folder, a name of :data:`~fedsc.data.catalogue.DATASETS`, or the stem of
        a file in ``$FEDSC_DATA``.

    Returns
    -------
    Source
        An existing path and how to read it.

    Raises
    ------
    DataError
        If nothing of that path or name exists, or the download fails.
    """
    if not dataset:
        raise DataError("option dataset is empty: give a name or a path")
    path = Path(dataset).expanduser()
    if path.exists():
        return Source(path.stem, path)
    if len(path.parts) > 1 or path.suffix in _FILES:
        raise DataError(f"dataset '{dataset}': there is no such file or folder")
    known = DATASETS.get(dataset)
    found = find(dataset)
    if found is None:
        if known is None:
            raise DataError(_unknown(dataset))
        found = _download(known)
    known = known or _by_alias(dataset)
    if known is None:
        return Source(dataset, found, "", _label_key(found), known=True)
    label_key = known.label_key or _label_key(found)
    return Source(dataset, found, known.layer, label_key, known.subtypes_per_lab, known=True)


def find(dataset: str) -> Path | None:
    """Give the file of a set that is on this machine already, or ``None``.

    Parameters
    ----------
    dataset
        A name of :data:`~fedsc.data.catalogue.DATASETS` or the stem of a file in ``$FEDSC_DATA``.

    Raises
    ------
    DataError
        If ``$FEDSC_DATA`` is set and is not a folder.
    """
    known = DATASETS.get(dataset)
    stems = (dataset, *known.aliases) if known else (dataset,)
    folder = data_folder()
    candidates = [folder / f"{stem}{end}" for stem in stems for end in _ENDINGS] if folder else []
    if known:
        candidates += _installed(known)
        candidates.append(cache_folder() / f"{dataset}.h5")
    return next((path for path in candidates if path.is_file()), None)


def data_folder() -> Path | None:
    """Give the folder ``$FEDSC_DATA``, or ``None`` when it is not set."""
    value = os.environ.get("FEDSC_DATA", "")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise DataError(f"FEDSC_DATA = '{value}' is not a folder: correct it or unset it")
    return folder


def cache_folder() -> Path:
    """Give the folder downloads are kept in (the user's cache, e.g. ``~/.cache/fedsc``)."""
    import pooch

    return Path(pooch.os_cache("fedsc"))


def _installed(entry: Dataset) -> list[Path]:
    """List where a package may hold the set, in the order of imports.

    All of ``sys.path`` counts: Flower runs its own copy of FedSC, which comes first and holds no
    data, as Flower copies only code and text. ``importlib.resources`` would stop there, and would
    import scanpy, which takes seconds.
    """
    return [Path(folder).absolute() / entry.file for folder in sys.path] if entry.file else []


def _by_alias(stem: str) -> Dataset | None:
    return next((entry for entry in DATASETS.values() if stem in entry.aliases), None)


def _unknown(dataset: str) -> str:
    folder = data_folder()
    files = [path.stem for end in _ENDINGS for path in folder.glob(f"*{end}")] if folder else []
    names = [*DATASETS, *sorted(files)]
    close = difflib.get_close_matches(dataset, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(name) for name in close)}? " if close else ""
    where = f"FEDSC_DATA = '{folder}'" if folder else "FEDSC_DATA, which is not set"
    return (
        f"dataset '{dataset}' is neither a path, nor a known name, nor the stem of an .h5ad in "
        f"{where}; {hint}`fedsc datasets` lists what is known"
    )


def _label_key(path: Path) -> str:
    """Look for the usual column of cell types, reading names only, once as long as it is the same.

    A simulation asks for every message, and a file is not opened without being examined.
    """
    return _label_key_of(path, identity(path))


@lru_cache
def _label_key_of(path: Path, _content: object) -> str:
    import h5py

    from fedsc.data.reading.safe_hdf5 import open_hdf5

    try:
        with open_hdf5(path) as file:
            if "obs" in file:
                obs = file["obs"]
                columns = obs.keys() if isinstance(obs, h5py.Group) else obs.dtype.names or ()
                return LABEL_KEY if LABEL_KEY in columns else ""
            return "Y" if "Y" in file else ""
    except OSError as error:
        raise DataError(f"{path}: not an HDF5 file ({error})") from None


def _download(entry: Dataset) -> Path:
    """Fetch a set into the cache, in the layout it is published in."""
    import pooch

    by_hand = (
        f"save it as {entry.name}.h5ad, with cell types in obs['{LABEL_KEY}'], or as "
        f"{entry.name}.h5, with X (cells × genes) and Y (types), in a folder and set FEDSC_DATA "
        f"to that folder"
    )
    if entry.file and entry.url is None:
        package = entry.file.partition("/")[0]
        raise DataError(
            f"dataset '{entry.name}' comes with {package}, but the installed {package} does not "
            f"hold it: install {package} again"
        )
    if entry.url is None:
        raise DataError(
            f"dataset '{entry.name}' has no direct download: get it from {entry.page}, {by_hand}"
        )
    pooch.get_logger().setLevel("WARNING")  # what it would say of the checksum is said below
    try:
        path = Path(
            pooch.retrieve(
                entry.url,
                known_hash=f"sha256:{entry.sha256}" if entry.sha256 else None,
                fname=f"{entry.name}.h5",
                path=cache_folder(),
                downloader=pooch.HTTPDownloader(progressbar=True, timeout=_TIMEOUT),
            )
        )
    except ValueError as error:  # pooch's checksum mismatch
        raise DataError(f"dataset '{entry.name}', downloaded from {entry.url}: {error}") from None
    except OSError as error:  # what requests and urllib raise are OSErrors too
        raise DataError(
            f"dataset '{entry.name}' could not be downloaded ({type(error).__name__}): get "
            f"{entry.url} by other means, {by_hand}"
        ) from None
    with path.open("rb") as file:
        if file.read(8) != _HDF5:
            path.unlink()
            raise DataError(
                f"dataset '{entry.name}': what {entry.url} gave is not an HDF5 file; look at it "
                f"in a browser, or get the set from {entry.page or 'elsewhere'}, {by_hand}"
            )
    if entry.sha256 is None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _log.warning("%s: no checksum is known yet; to pin it: sha256=%r", entry.name, digest)
    return path
