"""The data sets of the two papers, and a tiny one for tests.

Nothing here was guessed: where no public source could be verified a field is ``None`` and the note
says so. No checksum of any download is known, so none is claimed.
"""

from dataclasses import dataclass

# scDCC's repository, as it was when the sets were looked at: a name of a branch may move.
_SCDCC = (
    "https://raw.githubusercontent.com/ttgump/scDCC/142e4e0370f4134751e92a160f95f97fce8db369/"
    "data/Small_Datasets/"
)
_SCDEEPCLUSTER_PAGE = "https://figshare.com/articles/dataset/scDeepCluster_supporting_data/17158025"
_SCZIDESK_PAGE = "https://drive.google.com/drive/folders/1BIZxZNbouPtGf_cyu7vM44G5EcbxECeu"


@dataclass(frozen=True)
class Dataset:
    """What is known about a set.

    Attributes
    ----------
    name
        What a person types; also the stem of the file in ``$FEDSC_DATA`` and in the cache.
    title
        Tissue, species, technology.
    cells, genes, types
        Size as published; ``None`` where it could not be verified.
    subtypes_per_lab
        Types per lab k in the paper's four-lab splits (FedSC §4.1); ``None`` if not split there.
    file
        Where the set lies in an installed package, as a path from ``site-packages``; ``""`` = in
        none.
    url
        Direct download (HDF5 with ``X`` and ``Y``), or ``None``.
    sha256
        Checksum of that download, or ``None``.
    page
        Where a person finds the set when there is no direct download of all of it.
    licence
        As stated by the repository that ships the file, or ``None`` if it states none.
    layer, label_key
        Where expression and cell types are; ``""`` = ``X``, and the usual column if it is there.
    aliases
        Other stems accepted in ``$FEDSC_DATA``, best first.
    note
        What differs from the published set, and what could not be verified.
    """

    name: str
    title: str
    cells: int | None
    genes: int | None
    types: int | None
    subtypes_per_lab: int | None = None
    file: str = ""
    url: str | None = None
    sha256: str | None = None
    page: str | None = None
    licence: str | None = None
    layer: str = ""
    label_key: str = ""
    aliases: tuple[str, ...] = ()
    note: str = ""


_APACHE = "Apache-2.0 (repository)"


def _sczidesk(
    name: str, title: str, cells: int | None, genes: int | None, types: int | None
) -> Dataset:
    return Dataset(
        name,
        title,
        cells,
        genes,
        types,
        page=_SCZIDESK_PAGE,
        note="By hand, from scziDesk's folder. The numbers are from tables about its files, not "
        "from the file itself; a number they disagree on is left out.",
    )


DATASETS: dict[str, Dataset] = {
    entry.name: entry
    for entry in (
        Dataset(
            "pbmc68k_reduced",
            "human blood, 10x",
            700,
            765,
            10,
            file="scanpy/datasets/10x_pbmc68k_reduced.h5ad",
            licence="BSD-3-Clause (scanpy)",
            layer="raw",
            label_key="bulk_labels",
            note="Log-normalised values of 765 genes; for tests.",
        ),
        Dataset(
            "10x_pbmc",
            "human blood, 10x",
            4271,
            16653,
            8,
            subtypes_per_lab=2,
            file="fedsc/data/10x_pbmc.h5ad",
            url=_SCDCC + "10X_PBMC_top2000.h5",
            page=_SCDEEPCLUSTER_PAGE,
            licence=f"{_APACHE}, data CC BY 4.0 (10x Genomics)",
            aliases=("10x_pbmc_4271_top2000",),
            note="The file that comes with FedSC, the download and 10x_pbmc_4271_top2000 hold all "
            "cells, but only the 2000 genes scDCC's authors chose.",
        ),
        Dataset(
            "mouse_bladder",
            "mouse bladder, Microwell-seq",
            2746,
            20670,
            16,
            subtypes_per_lab=4,
            url=_SCDCC + "mouse_bladder_cell_top2000.h5",
            page=_SCDEEPCLUSTER_PAGE,
            licence=_APACHE,
            aliases=("mouse_bladder_2746_top2003", "mouse_bladder_2100_allgenes"),
            note="The download and mouse_bladder_2746_top2003 hold all cells, but only 2003 genes; "
            "mouse_bladder_2100_allgenes holds all genes, but only 2100 cells.",
        ),
        Dataset(
            "worm_neuron",
            "worm neurons, sci-RNA-seq",
            4186,
            13488,
            10,
            url=_SCDCC + "worm_neuron_cell.h5",
            licence=_APACHE,
            aliases=("worm_neuron_4186",),
        ),
        Dataset(
            "young_human_kidney",
            "human kidney, 10x",
            5685,
            33658,
            11,
            url=_SCDCC + "human_kidney_counts_top2000.h5",
            page=_SCZIDESK_PAGE,
            licence=_APACHE,
            aliases=("young_human_kidney_5685_top2000",),
            note="The download and young_human_kidney_5685_top2000 hold all cells, but only the "
            "2000 genes scDCC's authors chose. The number of genes is from a table about the file, "
            "not from the file itself.",
        ),
        Dataset(
            "klein_mouse_es",
            "mouse embryonic stem cells, inDrop",
            2717,
            24175,
            4,
            page=_SCDEEPCLUSTER_PAGE,
            note="By hand; that the set is still on that page was not verified.",
        ),
        _sczidesk("quake_smartseq2_trachea", "mouse trachea, Smart-seq2", 1350, 23341, None),
        _sczidesk("quake_smartseq2_lung", "mouse lung, Smart-seq2", 1676, 23341, None),
        _sczidesk("quake_smartseq2_diaphragm", "mouse diaphragm, Smart-seq2", 870, 23341, 5),
        _sczidesk("quake_smartseq2_limb_muscle", "mouse limb muscle, Smart-seq2", 1090, 23341, 6),
        _sczidesk("quake_10x_bladder", "mouse bladder, 10x", 2500, 23341, 4),
        _sczidesk("quake_10x_spleen", "mouse spleen, 10x", None, 23341, 5),
        _sczidesk("quake_10x_limb_muscle", "mouse limb muscle, 10x", 3909, 23341, 6),
        _sczidesk("adam", "mouse kidney, Drop-seq", 3660, 23797, 8),
        _sczidesk("muraro", "human pancreas, CEL-seq2", 2122, 19046, 9),
        _sczidesk("romanov", "mouse hypothalamus", 2881, 21143, 7),
    )
}
"""Every known set under its name."""
