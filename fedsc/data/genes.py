"""Which genes a federation talks about: match names, agree on a vocabulary.

Names match when they are the same, case included: ``WASH7P`` is a gene of man, ``Wash7p`` one of
the mouse. Of Ensembl ids alone neither version nor case counts (``ENSG00000000003.15`` is
``ensg00000000003``); where two genes of one lab would become the same, they match exactly or not
at all, in every lab. ``AL627309.1`` and ``AL627309.2`` are no such ids but two genes.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from fedsc.errors import DataError

How = Literal["intersection", "union", "reference"]

_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d+)(?:\.\d+)?(_PAR_Y)?", re.IGNORECASE)
_STABLE_ID = re.compile(r"(ENS[A-Z]*G\d{6,}|WBGene\d{8}|FBgn\d{7})(\W.*)?", re.IGNORECASE)
_POSITION = re.compile(r"(g|gene|feature|var|v|x)?[ _.-]?(0|[1-9]\d*)", re.IGNORECASE)
_REFERENCE = "the reference"

_Identity = tuple[str, str]
"""What two names of one gene have in common: a key, and the name where the key is ambiguous."""


def agree(
    gene_lists: Mapping[str, Sequence[str] | np.ndarray],
    how: How,
    reference: Sequence[str] | None,
    min_shared: int,
) -> np.ndarray:
    """Find the genes a federation can talk about.

    Parameters
    ----------
    gene_lists
        Names of the genes each lab measured, by lab.
    how
        ``"intersection"``: genes every lab measured. ``"union"``: genes any lab measured.
        ``"reference"``: genes of ``reference`` that any lab measured.
    reference
        Gene names, for ``how = "reference"``.
    min_shared
        Fewest genes all labs share (intersection), a lab shares with some other lab (union),
        or a lab has of the reference. A lab alone shares with nobody, so it is held to this
        only against a reference.

    Returns
    -------
    np.ndarray
        Names, object (V,), sorted, so that neither the order of the labs nor of their columns
        matters. A gene spelled in several ways has the reference's spelling, else the one most
        labs use, else the first of these in the alphabet.

    Raises
    ------
    DataError
        If a lab repeats a name, labs mix symbols with stable ids, labs with positional names
        (``g0``, ``g1``, …) differ, or too few genes are shared.
    """
    if not gene_lists:
        raise DataError("no lab brought any genes; there must be at least one lab")
    lists = {lab: tuple(map(str, genes)) for lab, genes in sorted(gene_lists.items())}
    if how == "reference":
        lists[_REFERENCE] = tuple(map(str, reference or ()))
    _refuse_unlike_names(lists)

    labs = _identify(lists)
    listed = labs.pop(_REFERENCE, {})
    seen = Counter(gene for found in labs.values() for gene in found)
    if how == "intersection":
        kept = {gene for gene, count in seen.items() if count == len(labs)}
    elif how == "union":
        kept = set(seen)
    else:
        kept = seen.keys() & listed.keys()
    _refuse_few(labs, seen, kept, how, min_shared)

    spellings: dict[_Identity, list[str]] = defaultdict(list)
    for found in [listed] if listed else labs.values():
        for gene in found.keys() & kept:
            spellings[gene].append(found[gene])
    names = [min(set(s), key=lambda name: (-s.count(name), name)) for s in spellings.values()]
    return np.array(sorted(names), dtype=object)


def match(genes: Sequence[str] | np.ndarray, vocabulary: Sequence[str] | np.ndarray) -> np.ndarray:
    """Find each gene of a file in the vocabulary.

    The exact name wins; else the same key does, if it stands for one gene on either side.

    Parameters
    ----------
    genes
        Names of the file's columns, unique, (genes,).
    vocabulary
        Names, unique, (V,).

    Returns
    -------
    np.ndarray
        int64 (genes,): position in the vocabulary, −1 where there is none; no position twice.
    """
    names, wanted = tuple(map(str, genes)), tuple(map(str, vocabulary))
    places = {name: place for place, name in enumerate(wanted)}
    columns = np.array([places.get(name, -1) for name in names], dtype=np.int64)
    if (columns >= 0).sum() < min(len(names), len(wanted)):
        ours, theirs = _names_by_key(names), _names_by_key(wanted)
        for column in np.flatnonzero(columns < 0):
            key = _key(names[column])
            if len(ours[key]) == len(theirs.get(key, ())) == 1:
                columns[column] = places[theirs[key][0]]
    return columns


def refuse_other_positions(genes: Sequence[str] | np.ndarray, vocabulary: Sequence[str]) -> None:
    """Refuse a file whose genes are named by position when the vocabulary's are other positions.

    Raises
    ------
    DataError
        If both are ``g0``, ``g1``, … and differ: position 7 of one file is not the gene at
        position 7 of another.
    """
    names, wanted = tuple(map(str, genes)), tuple(map(str, vocabulary))
    if is_positional(names) and is_positional(wanted) and set(names) != set(wanted):
        raise DataError(
            f"the file names {len(names)} genes by position ({names[0]}, …) and the model knows "
            f"{len(wanted)} by position ({wanted[0]}, …): they cannot be the same genes; give the "
            "genes real names on both sides"
        )


def case_note(gene_lists: Mapping[str, Sequence[str] | np.ndarray]) -> str | None:
    """Say which names differ between lists in nothing but case, and so do not match.

    Parameters
    ----------
    gene_lists
        Names of genes by who brought them: labs, a file, a model.

    Returns
    -------
    str or None
        A sentence; ``None`` where there is no such name.
    """
    holders: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for who, genes in gene_lists.items():
        for key in _names_by_key(tuple(map(str, genes))):
            holders[key.casefold()][key].add(who)
    # Two names that every holder of one also has are two genes (fly ``dl`` and ``Dl``).
    unlike = [
        sorted(spellings)
        for spellings in holders.values()
        if len(spellings) > 1
        and any(a - b and b - a for a, b in combinations(spellings.values(), 2))
    ]
    if not unlike:
        return None
    shown = _some((" and ".join(names) for names in sorted(unlike)), 3)
    return (
        f"{len(unlike)} gene names differ in case only ({shown}) and count as different genes: "
        "they may be of two species; if they are the same genes, set fold-case"
    )


def fold_case(names: Sequence[str] | np.ndarray) -> np.ndarray:
    """Spell gene names in capitals, but for those that would become the same.

    Parameters
    ----------
    names
        Of one file's genes, (genes,). ``dl`` and ``Dl`` of the fly are two genes and stay as they
        are.

    Returns
    -------
    np.ndarray
        Names in the same order, object (genes,).
    """
    spellings: dict[str, set[str]] = defaultdict(set)
    for name in names:
        spellings[str(name).upper()].add(str(name))
    folded = [str(name).upper() for name in names]
    kept = [
        upper if len(spellings[upper]) == 1 else str(name)
        for name, upper in zip(names, folded, strict=True)
    ]
    return np.array(kept, dtype=object)


def read_reference(path: Path) -> tuple[str, ...]:
    """Read a text file of gene names, one a line; blank lines and ``#`` comments are skipped.

    Raises
    ------
    DataError
        If the file cannot be read, or holds no names.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"reference-genes = '{path}' cannot be read as text: {error}") from None
    genes = dict.fromkeys(name for line in lines if (name := line.split("#")[0].strip()))
    if not genes:
        raise DataError(f"reference-genes = '{path}' names no genes; write one a line")
    return tuple(genes)


def _key(name: str) -> str:
    ensembl = _ENSEMBL.fullmatch(name)
    return (ensembl[1] + (ensembl[2] or "")).upper() if ensembl else name


@lru_cache(maxsize=64)  # labs cut from one file bring one list
def _names_by_key(names: tuple[str, ...]) -> dict[str, list[str]]:
    by_key: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_key[_key(name)].append(name)
    return by_key


def _identify(lists: Mapping[str, tuple[str, ...]]) -> dict[str, dict[_Identity, str]]:
    """Map each list's genes, by what identifies them among all lists, to their names there."""
    distinct = {names: _names_by_key(names) for names in lists.values()}
    ambiguous = {key for keys in distinct.values() for key, found in keys.items() if len(found) > 1}
    identified = {
        names: {
            (key, name if key in ambiguous else ""): name
            for key, found in keys.items()
            for name in found
        }
        for names, keys in distinct.items()
    }
    return {lab: identified[names] for lab, names in lists.items()}


def is_positional(names: Sequence[str] | np.ndarray) -> bool:
    """Tell ``g0, g1, …`` from gene names; bare numbers must count up (Entrez ids do not)."""
    return _is_positional(tuple(map(str, names)))


@lru_cache(maxsize=64)
def _is_positional(names: tuple[str, ...]) -> bool:
    numbers, prefixed = [], True
    for name in names:
        position = _POSITION.fullmatch(name)
        if position is None:
            return False
        numbers.append(int(position[2]))
        prefixed = prefixed and bool(position[1])
    return bool(numbers) and (prefixed or max(numbers) <= len(numbers))


def _refuse_unlike_names(lists: Mapping[str, tuple[str, ...]]) -> None:
    for lab, names in lists.items():
        if not names:
            raise DataError(f"{lab} has no genes; leave it out")
        if len(set(names)) < len(names):
            repeated = [name for name, count in Counter(names).items() if count > 1]
            raise DataError(
                f"{lab} names {len(repeated)} genes twice ({_some(repeated)}); make names unique"
            )
    positional = [lab for lab, names in lists.items() if _is_positional(names)]
    same = len({frozenset(names) for names in lists.values()}) == 1
    if positional and not same:
        first = lists[positional[0]]
        raise DataError(
            f"{_some(positional)} name genes by position ({first[0]}, {first[1 % len(first)]}, …) "
            f"and the lists differ ({_sizes(lists)} genes): the same position in two files is not "
            "the same gene; give the genes real names"
        )
    stable = [lab for lab, names in lists.items() if _are_stable_ids(names)]
    symbols = [lab for lab in lists if lab not in stable]
    if stable and symbols:
        one = next(lab for lab in (*stable, *symbols) if lab != _REFERENCE)
        raise DataError(
            f"genes are named differently: {_some(stable)} by stable ids "
            f"({lists[stable[0]][0]}), {_some(symbols)} by symbols ({lists[symbols[0]][0]}); "
            "bring all to one kind of name: symbols = 'COLUMN' says which column of var has them "
            "(--symbols COLUMN; of fedsc run --set symbols=COLUMN); of one lab alone labs.toml "
            f'beside the files says it: [{one}] symbols = "COLUMN"'
        )


@lru_cache(maxsize=64)
def _are_stable_ids(names: tuple[str, ...]) -> bool:
    return 2 * sum(bool(_STABLE_ID.fullmatch(name)) for name in names) > len(names)


def _refuse_few(
    labs: Mapping[str, Mapping[_Identity, str]],
    seen: Counter[_Identity],
    kept: Iterable[_Identity],
    how: How,
    min_shared: int,
) -> None:
    """Refuse labs that share fewer genes than asked for, saying what would help."""
    kept = set(kept)
    alone = len(labs) == 1
    shared = {
        lab: sum(seen[gene] > 1 for gene in found)
        if how == "union" and not alone
        else len(kept & found.keys())
        for lab, found in labs.items()
    }
    needed = 1 if alone and how != "reference" else max(min_shared, 1)
    short = [lab for lab, count in shared.items() if count < needed]
    if not short:
        return
    measured = _sizes(labs)
    note = case_note({lab: list(found.values()) for lab, found in labs.items()})
    if how == "reference":
        raise DataError(
            f"too few genes of the reference in {_some(f'{lab} ({shared[lab]})' for lab in short)}"
            f", min-shared-genes = {min_shared}; measured were {measured}; leave these labs out "
            "or give a reference that fits them"
        )
    if how == "union":
        advice = "leave these labs out or name their genes as the others do"
        if len(short) == len(labs):
            advice = "name the genes of all labs alike"
        raise DataError(
            f"{_some(f'{lab} shares {shared[lab]}' for lab in short)} genes with other labs, "
            f"min-shared-genes = {min_shared}; measured were {measured}; {advice}"
            + (f"; {note}" if note else "")
        )
    nearly = Counter(
        next(lab for lab in labs if gene not in labs[lab])
        for gene, count in seen.items()
        if count == len(labs) - 1
    )
    worst = max(labs, key=lambda lab: (nearly[lab], lab))
    others = len(kept) + nearly[worst]
    helps = []
    if len(labs) > 2 and others >= needed:
        helps.append(f"leave out {worst} (the others share {others})")
    if all(sum(seen[gene] > 1 for gene in found) >= needed for found in labs.values()):
        helps.append("set genes = 'union'")
    advice = " or ".join(helps) or "name the genes of all labs alike"
    raise DataError(
        f"the labs share {len(kept)} genes, min-shared-genes = {min_shared}; measured were "
        f"{measured}; {advice}" + (f"; {note}" if note else "")
    )


def _sizes(lists: Mapping[str, Sequence[str] | Mapping[_Identity, str]]) -> str:
    return _some(f"{lab}: {len(names)}" for lab, names in lists.items())


def _some(things: Iterable[str], most: int = 8) -> str:
    things = list(things)
    more = [f"… ({len(things) - most} more)"] if len(things) > most else []
    return ", ".join(things[:most] + more)
