"""``fedsc check``: whether a file can be used, and what is in it."""

from pathlib import Path
from typing import Annotated

import typer

from fedsc.cli.output import Force, check_plot
from fedsc.cli.reading import BatchKey, FoldCase, LabelKey, Layer, MakeUnique, Symbols
from fedsc.config import Config
from fedsc.data.reading.how import ReadAs
from fedsc.errors import ConfigError


def check(
    path: Annotated[
        Path, typer.Argument(help="File, 10x matrix folder, or folder with one file per lab.")
    ],
    layer: Layer = "",
    label_key: LabelKey = "",
    batch_key: BatchKey = "",
    symbols: Symbols = "",
    make_unique: MakeUnique = False,
    fold_case: FoldCase = False,
    min_cells: Annotated[
        int,
        typer.Option(min=1, help="Of a folder: fewest cells of a lab, as the run will have it."),
    ] = Config().split.min_cells,
    min_shared_genes: Annotated[
        int, typer.Option(min=1, help="Of a folder: fewest genes labs share, as the run will.")
    ] = Config().data.min_shared_genes,
    plot: Annotated[
        Path | None,
        typer.Option(help="Of a folder: also draw how many genes labs share (.png, .svg, .pdf)."),
    ] = None,
    force: Force = False,
) -> None:
    """Say whether a file can be used, if not why, and what it holds. The file is only read.

    Of a folder with one file per lab it says this of every lab, and whether they can be joined:
    shared genes, kinds of values, cell types, by the two limits named here. A file labs.toml there
    may name columns of each lab.
    --symbols, --make-unique and --fold-case repair names; `fedsc run --set symbols=…` (or
    make-unique=true, fold-case=true) does the same in a run.

    The exit code is 0 if all can be used, else 2.

    **Examples**

    `fedsc check lab.h5ad --label-key cell_type`

    `fedsc check lab.h5ad --layer raw`

    `fedsc check labs/ --symbols feature_name --plot overlap.png`

    `fedsc check filtered_feature_bc_matrix/`
    """
    from fedsc.cli.examination import check_file, check_folder
    from partitioning.simulation import holds_labs

    how = ReadAs(layer, label_key, symbols, make_unique, fold_case)
    if plot is not None:
        check_plot(plot, force=force)
    if holds_labs(path):
        fine = check_folder(path, how, batch_key, min_cells, min_shared_genes, plot)
    elif plot is not None:
        raise ConfigError("--plot is for a folder with one file per lab")
    else:
        fine = check_file(path, how, batch_key)
    if not fine:
        raise typer.Exit(2)
