"""``fedsc embed``: put the cells of a file into the space of a trained model."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsc.errors import DataError


def embed(
    file: Annotated[Path, typer.Argument(help=".h5ad file; it is not changed.")],
    model: Annotated[Path, typer.Option(help="Folder of a finished run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the copy goes (.h5ad).")],
    layer: Annotated[str, typer.Option(help="'' = X, 'raw' = .raw, else a layer.")] = "",
    resolution: Annotated[float, typer.Option(min=0.01, help="Of the Leiden clusters.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the Leiden clusters.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw a t-SNE map of the cells here (.png, .svg).")
    ] = None,
    colour: Annotated[
        list[str] | None, typer.Option(help="Columns of obs to colour the map by.")
    ] = None,
) -> None:
    """Embed a file with a trained encoder and cluster it, offline: nothing leaves this machine.

    The copy has obsm["X_fedsc"], obs["fedsc_cluster"] (Leiden on the embedding; no labels are
    looked at) and uns["fedsc"].

    **Examples**

    `fedsc embed new.h5ad --model runs/my-run --output new-embedded.h5ad`

    `fedsc embed new.h5ad --model runs/my-run -o out.h5ad --plot map.png --colour cell_type`
    """
    import anndata
    import pandas as pd

    from fedsc.data.io import read
    from fedsc.evaluate import leiden
    from fedsc.model import load_model

    console = Console(stderr=True)
    if output.exists() and file.exists() and output.samefile(file):
        raise DataError(f"{output} is the input file; name another output")
    trained = load_model(model)
    expression = read(file, layer=layer)
    missing = [name for name in colour or [] if name not in expression.obs]
    if missing:
        known = ", ".join(expression.obs.columns) or "none"
        raise DataError(f"obs has no column '{missing[0]}' to colour by; it has: {known}")
    embedding = trained.embed(expression)
    clusters = leiden(embedding, resolution, seed)
    cells = anndata.read_h5ad(file)
    cells.obsm["X_fedsc"] = embedding
    cells.obs["fedsc_cluster"] = pd.Categorical(clusters.astype(str))
    cells.uns["fedsc"] = {
        "model": str(model),
        "method": trained.method,
        "resolution": resolution,
        "seed": seed,
    }
    partial = output.with_name(f".{output.name}.partial")
    cells.write_h5ad(partial, compression="gzip")
    os.replace(partial, output)
    console.print(
        f"{len(embedding)} cells, {clusters.max() + 1} clusters: {output}", highlight=False
    )
    if plot is not None:
        from fedsc.plots import embedding_map

        groups = {name: cells.obs[name].astype(str).to_numpy() for name in colour or []}
        groups["fedsc_cluster"] = clusters.astype(str)
        embedding_map(embedding, groups, seed).savefig(plot, dpi=150)
        console.print(f"map: {plot}", highlight=False)
