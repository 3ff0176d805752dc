"""Non-IID split by cell type: every lab holds a few types only (FedSC §4.1)."""

import numpy as np

from fedsc.errors import ConfigError


def subtypes(
    labels: np.ndarray,
    labs: int,
    subtypes_per_lab: int,
    cover: str,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Deal ``subtypes_per_lab`` cell types to every lab, then cut each type among its labs.

    A lab never holds a type twice; the least used types are dealt first, ties drawn. So the types
    reach numbers of labs that differ by one at most, and with k·K = C every type lives in exactly
    one lab. With k·K < C some types reach no lab: the paper leaves them out.

    Parameters
    ----------
    labels
        Cell type of every cell, str (cells,).
    labs
        Number of labs K.
    subtypes_per_lab
        Types per lab k.
    cover
        ``"drop"`` leaves out the types no lab drew; ``"all"`` deals them round-robin, labs then
        hold more than k types.
    rng
        Moves the dealing and the cutting.

    Returns
    -------
    list of np.ndarray
        Sorted int64 rows of every lab, disjoint, none empty.

    Raises
    ------
    ConfigError
        If there are fewer types than k, or a type has fewer cells than labs that drew it.
    """
    types, type_of_cell = np.unique(labels, return_inverse=True)
    if subtypes_per_lab > len(types):
        raise ConfigError(
            f"option subtypes-per-lab = {subtypes_per_lab}: the data have {len(types)} cell types; "
            f"allowed is 1 to {len(types)}"
        )
    hands = _deal(len(types), labs, subtypes_per_lab, rng)
    if cover == "all":
        dealt = {kind for hand in hands for kind in hand}
        left = rng.permutation([kind for kind in range(len(types)) if kind not in dealt])
        for turn, kind in enumerate(left):
            hands[turn % labs].append(int(kind))

    parts: list[list[np.ndarray]] = [[] for _ in range(labs)]
    for kind in range(len(types)):
        holders = [lab for lab, hand in enumerate(hands) if kind in hand]
        cells = rng.permutation(np.flatnonzero(type_of_cell == kind))
        if len(cells) < len(holders):
            raise ConfigError(
                f"option labs = {labs} with subtypes-per-lab = {subtypes_per_lab} cuts type "
                f"'{types[kind]}' into {len(holders)} parts, but it has {len(cells)} cell(s): "
                f"lower labs or subtypes-per-lab, or remove the type"
            )
        # Equal parts differ by one cell at most; which lab gets the longer ones is drawn too,
        # or the first labs would be the largest in every split.
        for lab, part in zip(rng.permutation(holders), _cut(cells, len(holders)), strict=True):
            parts[int(lab)].append(part)
    return [np.sort(np.concatenate(part)).astype(np.int64) for part in parts]


def _deal(
    types: int, labs: int, subtypes_per_lab: int, rng: np.random.Generator
) -> list[list[int]]:
    """Give every lab its types, the least used first, ties drawn."""
    used = np.zeros(types, dtype=np.int64)
    hands = []
    for _ in range(labs):
        hand = np.lexsort((rng.random(types), used))[:subtypes_per_lab]
        used[hand] += 1
        hands.append([int(kind) for kind in hand])
    return hands


def _cut(cells: np.ndarray, parts: int) -> list[np.ndarray]:
    return np.array_split(cells, parts) if parts else []
