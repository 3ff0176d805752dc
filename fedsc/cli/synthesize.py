"""``fedsc synthesize``: a made-up data set of any size."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsc.cli.output import Force, check_output
from fedsc.cli.progress import Bars
from fedsc.data.synthetic import Biology, write_synthetic

_DEFAULT = Biology()


def synthesize(
    path: Annotated[Path, typer.Argument(metavar="OUT.h5ad", help="File to write.")],
    cells: Annotated[int, typer.Option(help="Number of cells.")] = 4000,
    genes: Annotated[int, typer.Option(help="Number of genes.")] = 2000,
    types: Annotated[int, typer.Option(help="Number of cell types.")] = 8,
    labs: Annotated[int, typer.Option(help="Number of labs, in obs['lab'].")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all draws.")] = 0,
    markers: Annotated[int, typer.Option(help="Marker genes per type.")] = _DEFAULT.markers,
    fold: Annotated[float, typer.Option(help="How many times a marker is higher.")] = _DEFAULT.fold,
    library: Annotated[float, typer.Option(help="Median counts per cell.")] = _DEFAULT.library,
    dispersion: Annotated[
        float, typer.Option(help="φ: variance m + φ·m² of a count.")
    ] = _DEFAULT.dispersion,
    dropout: Annotated[
        float, typer.Option(help="Probability that a count is lost.")
    ] = _DEFAULT.dropout,
    batch: Annotated[
        float, typer.Option(help="Difference between labs, SD of log expression.")
    ] = _DEFAULT.batch,
    force: Force = False,
) -> None:
    """Write a synthetic .h5ad: gamma-Poisson counts with types, marker genes and lab effects.

    Cell types are in obs['cell_type'], labs in obs['lab']. The file is written piece by piece, so
    a million cells take little memory; the same options give the same values.

    **Examples**

    `fedsc synthesize toy.h5ad`

    `fedsc synthesize million.h5ad --cells 1000000 --genes 2000 --labs 10`

    Then: `fedsc run --dataset toy.h5ad --label-key cell_type --partition column
    --set partition-key=lab`
    """
    check_output(path, ".h5ad", force=force)
    biology = Biology(
        markers=markers,
        fold=fold,
        library=library,
        dispersion=dispersion,
        dropout=dropout,
        batch=batch,
    )
    with Bars(Console(stderr=True)) as bars:
        write_synthetic(
            path,
            cells,
            genes,
            types,
            labs,
            seed,
            biology,
            written=lambda done: bars.show("cells", done, cells),
        )
    Console().print(
        f"{path}: {cells} cells × {genes} genes, {types} types, {labs} labs",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
