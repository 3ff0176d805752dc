"""Graph clusters of the pool, when nobody knows how many there are.

The nodes are micro-centres; a link is the weight that cells share between two of them, S = ZᵀZ
with Z the cells' soft weights (:mod:`fedsc.federated.micro`). Labs send their part of S, nothing
of a single cell. The server maximises Newman's modularity of S at some resolution
(:mod:`fedsc.federated.leiden`), and a cell belongs to the community that has most of its weight.
Links of a node to itself count in its degree, which so is the number of cells it stands for.

The result does not depend on how cells lie in labs: see the unit of weights in ``micro``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedsc.errors import ConfigError, RunError
from fedsc.evaluate import rare_type_f1
from fedsc.federated import metrics, micro
from fedsc.federated.bounds import Asked, Check, adds_up, at_least, at_most, finding
from fedsc.federated.centres import batches
from fedsc.federated.leiden import indicator, leiden, merge, number
from fedsc.federated.metrics import Embedded
from fedsc.federated.micro import MicroCentres
from fedsc.federated.query import Ask, Question, Sums, as_array, as_names, together

LINKS = "graph-links"
TALLY = "graph-tally"
CONTINGENCY = "graph-contingency"

_FEWEST = 10  # cells that a community stands for, unless nothing links it to another


@dataclass(frozen=True)
class GraphClusters:
    """Clusters of the pool at each of several resolutions, the largest cluster first.

    Attributes
    ----------
    micro
        The nodes of the graph.
    resolutions
        As they were asked for.
    communities
        Cluster of every node, int64 (resolutions, M).
    sizes
        Cells of the pool in every cluster, int64 (resolutions, C), C of the resolution with the
        most clusters; 0 beyond the last cluster of a resolution, and where a community has most
        of no cell's weight.
    labs
        In how many labs each cluster has cells, int64 (resolutions, C).
    stability
        Adjusted Rand index between clusters at each resolution and the next, over the pool's
        cells, float64 (resolutions − 1,).
    tables
        Cells of the pool by label and cluster, int64 (resolutions, L, C); L = 0 where no labels
        were asked for.
    """

    micro: MicroCentres
    resolutions: tuple[float, ...]
    communities: np.ndarray
    sizes: np.ndarray
    labs: np.ndarray
    stability: np.ndarray
    tables: np.ndarray


def assign(micro_centres: MicroCentres, communities: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Give every cell the community that has most of its weight.

    Of equal ones it is the first among the nodes, so the numbers of communities do not matter.

    Parameters
    ----------
    micro_centres
        The nodes of the graph.
    communities
        Of every node, int (M,) or (resolutions, M).
    x
        Embedding, float (cells, d).

    Returns
    -------
    np.ndarray
        int32 (cells,) or (resolutions, cells).
    """
    several = np.atleast_2d(communities)
    members = [indicator(number(row)) for row in several]
    names = [row[np.sort(np.unique(row, return_index=True)[1])] for row in several]
    labels = np.empty((len(several), len(x)), dtype=np.int32)
    start = 0
    for batch in batches(x):
        z = micro.weigh(micro_centres, batch)
        for row, of, name in zip(labels, members, names, strict=True):
            row[start : start + len(batch)] = name[(z @ of).argmax(axis=1)]
        start += len(batch)
    return labels.reshape(*communities.shape[:-1], len(x))


def learn_graph(
    ask: Ask,
    resolutions: Sequence[float],
    seed: int,
    most: int = micro.MOST,
    vocabulary: Sequence[str] | np.ndarray = (),
) -> GraphClusters:
    """Cluster the pool at several resolutions, in two questions more than the micro-centres.

    Parameters
    ----------
    ask
        Puts a question to labs that answer with :func:`fedsc.federated.answers.answer`.
    resolutions
        > 0: the higher, the smaller the clusters. 0.4 is good for cell types. Clusters are
        compared with those of the resolution before.
    seed
        Moves the micro-centres and the starts of Leiden.
    most
        Micro-centres in a set, at most.
    vocabulary
        Every label of every lab, str (L,), unique; empty when none are known.

    Raises
    ------
    ConfigError
        If ``resolutions`` are not as wanted.
    RunError
        If the labs hold no cell, or an embedding has values that are not finite.
    """
    wanted = np.asarray(resolutions, dtype=np.float64)
    if not (wanted.size and np.isfinite(wanted).all() and (wanted > 0).all()):
        raise ConfigError(f"resolutions = {list(resolutions)}: must be numbers > 0")
    nodes = micro.learn_micro(ask, seed, most)
    links = _square(ask(Question(LINKS, nodes.arrays()))["links"], len(nodes.centres))
    communities = np.stack([tidy(links, leiden(links, float(r), seed)) for r in wanted])
    counts = Question(TALLY, {**nodes.arrays(), "communities": communities})
    tables = np.zeros((len(wanted), 0, communities.max() + 1), dtype=np.int64)
    if len(vocabulary):
        names = as_array(vocabulary)
        labels = Question(CONTINGENCY, {**counts.arrays, "vocabulary": names})
        ask = together(ask, counts, labels)
        tables = ask(labels)["tables"]
    tally = ask(counts)
    stability = [metrics.ari_from_contingency(pair) for pair in tally["pairs"]]
    order = np.argsort(-tally["sizes"], axis=1, kind="stable")
    return GraphClusters(
        nodes,
        tuple(wanted.tolist()),
        np.take_along_axis(np.argsort(order, axis=1), communities, axis=1),
        np.take_along_axis(tally["sizes"], order, axis=1),
        np.take_along_axis(tally["labs"], order, axis=1),
        np.array(stability, dtype=np.float64),
        np.take_along_axis(tables, order[:, None], axis=2),
    )


def agreement(clusters: GraphClusters) -> list[dict[str, float | None]]:
    """Compare clusters with the labs' labels.

    Returns
    -------
    list
        For every resolution ``ari``, ``nmi`` and ``rare_f1`` over the labelled cells; ``None``
        without any.
    """
    return [
        {
            "ari": metrics.ari_from_contingency(table) if table.any() else None,
            "nmi": metrics.nmi_from_contingency(table) if table.any() else None,
            "rare_f1": rare_type_f1(table),
        }
        for table in clusters.tables
    ]


def tidy(links: np.ndarray, communities: np.ndarray) -> np.ndarray:
    """Let each community of fewer than ten cells join the one it is most linked to.

    The smallest goes first; one that nothing links to another stays.

    Parameters
    ----------
    links
        Symmetric, float64 (M, M); row sums are numbers of cells.
    communities
        Of every node, int64 (M,).

    Returns
    -------
    np.ndarray
        As ``communities``, numbered in order of appearance.
    """
    communities = communities.copy()
    while True:
        between = merge(links, communities)
        cells = between.sum(axis=1)
        np.fill_diagonal(between, 0)
        small = np.flatnonzero((cells < _FEWEST) & between.any(axis=1))
        if not len(small):
            return number(communities)
        smallest = small[cells[small].argmin()]
        communities[communities == smallest] = between[smallest].argmax()
        communities = number(communities)


def _links(lab: Embedded, question: Question) -> Sums:
    """Sum ZᵀZ, its upper triangle row by row: ``links`` float64 (M (M + 1) / 2,)."""
    nodes = MicroCentres.of(question.arrays)
    total = np.zeros((len(nodes.centres),) * 2)
    for batch in batches(lab.x):
        z = micro.weigh(nodes, batch)
        product = (z.T @ z).tocoo()
        total[product.row, product.col] += product.data
    return {"links": total[np.triu_indices(len(total))]}


def _square(triangle: np.ndarray, nodes: int) -> np.ndarray:
    if not (np.isfinite(triangle).all() and (triangle >= 0).all() and triangle.any()):
        raise RunError("the labs' links between micro-centres are not sums of weights")
    links = np.zeros((nodes, nodes))
    links[np.triu_indices(nodes)] = triangle
    return links + np.triu(links, 1).T


def _tally(lab: Embedded, question: Question) -> Sums:
    """Count cells by cluster at each resolution and the next, and clusters that have any.

    Returns
    -------
    Sums
        ``sizes`` int64 (resolutions, C); ``labs``, 1 where there is a cell, so that it adds up
        over labs (not over parts of a lab); ``pairs`` int64 (resolutions − 1, C, C).
    """
    labels = _labels(lab, question)
    most = int(question.arrays["communities"].max()) + 1
    sizes = np.array([np.bincount(row, minlength=most) for row in labels], dtype=np.int64)
    pairs = np.zeros((len(labels) - 1, most, most), dtype=np.int64)
    for table, first, second in zip(pairs, labels[:-1], labels[1:], strict=True):
        np.add.at(table, (first, second), 1)
    return {"sizes": sizes, "labs": (sizes > 0).astype(np.int64), "pairs": pairs}


def _contingency(lab: Embedded, question: Question) -> Sums:
    """Count cells by label and cluster: ``tables`` int64 (resolutions, L, C)."""
    vocabulary = as_names(question.arrays["vocabulary"])
    most = int(question.arrays["communities"].max()) + 1
    tables = [
        metrics.contingency(lab.labels, row, vocabulary, most)["table"]
        for row in _labels(lab, question)
    ]
    return {"tables": np.stack(tables)}


def _labels(lab: Embedded, question: Question) -> np.ndarray:
    return assign(MicroCentres.of(question.arrays), question.arrays["communities"], lab.x)


ANSWERS: dict[str, Callable[[Embedded, Question], Sums]] = {
    LINKS: _links,
    TALLY: _tally,
    CONTINGENCY: _contingency,
}


def check_links(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in ZᵀZ: weights are ≥ 0, and those of a cell sum to 1."""
    triangle, nodes = sums["links"], len(asked.question.arrays["centres"])
    rows, columns = np.triu_indices(nodes)
    total = triangle @ np.where(rows == columns, 1.0, 2.0)
    return finding(
        at_least("links", triangle, 0),
        at_most("the total of links", total, asked.n_cells),
        at_least("the total of links", total, asked.n_cells),
    )


def check_tally(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in an answer of :func:`_tally`."""
    sizes, pairs = sums["sizes"], sums["pairs"]
    agree = (
        np.array_equal(sums["labs"], sizes > 0)
        and np.array_equal(pairs.sum(axis=2), sizes[:-1])
        and np.array_equal(pairs.sum(axis=1), sizes[1:])
    )
    return finding(
        adds_up("sizes", sizes.sum(axis=1), asked.n_cells),
        "" if agree else "sizes, labs and pairs contradict each other",
    )


def check_contingency(sums: Sums, asked: Asked) -> str:
    """Say what is impossible in tables of labels and clusters: a label counts in each."""
    labels = sums["tables"].sum(axis=2)
    return finding(
        at_most("a table", labels.sum(axis=1), asked.n_cells),
        "" if (labels == labels[:1]).all() else "tables contradict each other",
    )


CHECKS: dict[str, Check] = {
    LINKS: check_links,
    TALLY: check_tally,
    CONTINGENCY: check_contingency,
}
