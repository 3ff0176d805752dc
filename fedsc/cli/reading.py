"""How a command reads a file: the options that commands share, named as those of a run."""

from typing import Annotated

import typer

Layer = Annotated[str, typer.Option(help="'' = X, 'raw' = adata.raw, else a layer's name.")]
LabelKey = Annotated[str, typer.Option(help="Column of obs with cell types.")]
BatchKey = Annotated[str, typer.Option(help="Column of obs with batches, for Harmony.")]
Symbols = Annotated[
    str, typer.Option(help="Column of var that names the genes; '' = the names of var.")
]
MakeUnique = Annotated[bool, typer.Option(help="Number names of genes and cells that repeat.")]
FoldCase = Annotated[
    bool, typer.Option(help="Case of gene names does not count: spell them in capitals.")
]
