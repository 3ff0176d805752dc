"""Open an HDF5 file of a stranger: nothing in it leads out of it, and nothing swells when read.

HDF5 can make a dataset of other files (external links, external storage, virtual datasets), and a
few bytes can promise terabytes (shapes without data, chunks that decompress to gigabytes). All
that is refused in words, from the file's own tables, before a value is read.
"""

import math
import zlib
from pathlib import Path

import h5py
from h5py import h5d, h5o, h5z

from fedsc.data.reading.memory import available_memory, memory_problem
from fedsc.errors import DataError

MOST_OBJECTS = 100_000
MOST_DEFLATED = 1032
"""Deflate packs at most 1032 bytes into one."""

_TEXT = 64  # bytes a text of variable length takes, with its pointer, when nothing is known of it


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading and refuse it where it leads elsewhere (:func:`refuse_foreign`).

    Raises
    ------
    DataError
        If it does.
    OSError
        If it is no HDF5 file, or damaged.
    """
    file = h5py.File(path, "r")
    try:
        refuse_foreign(file)
    except BaseException as error:
        file.close()
        if isinstance(error, DataError):
            raise DataError(f"{path}: {error}") from None
        raise
    return file


def refuse_foreign(file: h5py.File) -> None:
    """Walk all that is in a file without following a link, and refuse what is not in the file.

    Raises
    ------
    DataError
        If a link leads into another file or is of an unknown kind, a dataset's values are in other
        files, a chunk decompresses to more than memory holds, or there are more objects than any
        writer of the field makes.
    """
    seen, waiting = {_address(file)}, [file["/"]]
    while waiting:
        group = waiting.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            if not _is_hard(group, name, where):
                continue
            node = group[name]
            if _address(node) in seen:  # a second name of it, or a circle
                continue
            seen.add(_address(node))
            if len(seen) > MOST_OBJECTS:
                raise DataError(f"the file holds more than {MOST_OBJECTS} objects: it is damaged")
            if isinstance(node, h5py.Group):
                waiting.append(node)
            elif isinstance(node, h5py.Dataset):
                _refuse_dataset(node, where)


def refuse_large(*nodes: h5py.Dataset | h5py.Group | None) -> None:
    """Refuse what would not fit in memory if all of it was read, by the shapes it promises.

    Raises
    ------
    DataError
        If it does not fit, or a dataset promises values and holds none.
    """
    needed = 0

    def add(node: h5py.Dataset | h5py.Group) -> None:
        nonlocal needed
        if isinstance(node, h5py.Dataset):
            refuse_unwritten(node)
            needed += promised_bytes(node)

    for node in nodes:
        if isinstance(node, h5py.Group):
            node.visititems(lambda _, inner: add(inner))
        elif node is not None:
            add(node)
    if problem := memory_problem(needed):
        raise DataError(problem)


def promised_bytes(dataset: h5py.Dataset) -> int:
    """Give the memory all values of a dataset take by its shape; 0 where it has none."""
    if dataset.shape is None:
        return 0
    item = _TEXT if h5py.check_vlen_dtype(dataset.dtype) is not None else dataset.dtype.itemsize
    if h5py.check_string_dtype(dataset.dtype) is not None:
        item += _TEXT  # a Python object each
    return int(math.prod(dataset.shape) * item)


def refuse_unwritten(dataset: h5py.Dataset) -> None:
    """Refuse a dataset whose shape promises values that were never written.

    HDF5 would give zeros for them: of a file cut off while it was written, or made to mislead.
    """
    shape = dataset.shape
    if shape is None or math.prod(shape) == 0:
        return
    missing = dataset.id.get_storage_size() == 0
    if not missing and dataset.chunks is not None and len(shape) == 1:
        missing = dataset.id.get_num_chunks() < -(-shape[0] // dataset.chunks[0])
    if missing:
        raise DataError(
            f"{dataset.name} promises {math.prod(shape):,} values and holds fewer: the file was "
            "not written to its end; copy or make it again"
        )


def _is_hard(group: h5py.Group, name: str, where: str) -> bool:
    """Tell an object in the file from a second path to one; refuse what leads out of the file."""
    try:
        link = group.get(name, getlink=True)
    except TypeError:  # a kind of link that a program defined for itself
        link = None
    if isinstance(link, h5py.ExternalLink):
        raise DataError(
            f"{where} is a link into another file ({link.filename}): only what is in the file "
            "itself is read; copy it in"
        )
    if isinstance(link, h5py.SoftLink):  # a path in this file, whose links are all looked at
        return False
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{where} is a link of an unknown kind: write the file again without it")
    return True


def _refuse_dataset(dataset: h5py.Dataset, where: str) -> None:
    properties = dataset.id.get_create_plist()
    if properties.get_layout() == h5d.VIRTUAL:
        raise DataError(f"{where} is a virtual dataset, made of other files: copy its values in")
    if properties.get_external_count():
        name = properties.get_external(0)[0].decode(errors="replace")
        raise DataError(f"{where} keeps its values in another file ({name}): copy them in")
    if dataset.chunks is None:
        return
    # A text of variable length is a pointer in memory (8 bytes), a place in a heap on disk (16).
    stored = dataset.dtype.itemsize * (2 if dataset.dtype.hasobject else 1)
    chunk = math.prod(dataset.chunks) * stored
    if problem := memory_problem(2 * chunk):
        raise DataError(f"{where} is stored in one piece too large to be read: {problem}")
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if h5z.FILTER_DEFLATE in filters:
        after = filters[filters.index(h5z.FILTER_DEFLATE) + 1 :]
        if after not in ([], [h5z.FILTER_FLETCHER32]):
            raise DataError(f"{where} is compressed twice over: write the file again")
        _refuse_bomb(dataset, where, chunk, checksum=bool(after))


def _refuse_bomb(dataset: h5py.Dataset, where: str, chunk: int, *, checksum: bool) -> None:
    """Refuse a chunk that decompresses to more than it should; HDF5 itself does not count.

    Only a chunk that could be more than memory holds is looked at, a piece at a time.
    """
    free = available_memory()
    if free is None:
        return
    most = free // (2 * MOST_DEFLATED)  # HDF5 doubles its buffer as it goes
    stored: list[h5d.StoreInfo] = []
    if dataset.id.get_storage_size() <= most:
        return
    dataset.id.chunk_iter(lambda info: stored.append(info) if info.size > most else None)
    for info in stored:
        mask, content = dataset.id.read_direct_chunk(info.chunk_offset)
        if mask:  # not compressed
            continue
        if not _deflates_to(content[:-4] if checksum else content, chunk):
            raise DataError(
                f"{where} decompresses to more than the {chunk:,} bytes it promises: it is damaged"
            )


def _deflates_to(content: bytes, most: int) -> bool:
    """Tell whether a compressed piece holds at most so many bytes, without making them all."""
    stream, size = zlib.decompressobj(), 0
    try:
        while content and not stream.eof and size <= most:
            size += len(stream.decompress(content, 2**20))
            content = stream.unconsumed_tail
    except zlib.error:  # damaged, which HDF5 says when it comes so far
        return True
    return size <= most


def _address(node: h5py.Group | h5py.Dataset | h5py.Datatype) -> int:
    return int(h5o.get_info(node.id).addr)
