"""``fedsc embed``: embed and cluster a new file with the model of a run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsc.cli.output import Force, check_output, check_plot
from fedsc.cli.reading import FoldCase, Layer, MakeUnique, Symbols
from fedsc.data.reading.how import ReadAs
from fedsc.errors import DataError


def embed(
    file: Annotated[Path, typer.Argument(help="File of cells; it is not changed.")],
    model: Annotated[Path, typer.Option(help="Folder of a finished run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the copy goes (.h5ad).")],
    layer: Layer = "",
    symbols: Symbols = "",
    make_unique: MakeUnique = False,
    fold_case: FoldCase = False,
    resolution: Annotated[
        float | None,
        typer.Option(min=0.01, help="Make Leiden clusters of this resolution, not the run's."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of Leiden and of --plot.")] = 0,
    private: Annotated[
        Path | None,
        typer.Option(help="One lab's private state, for a model trained with local-norm."),
    ] = None,
    integration: Annotated[
        Path | None,
        typer.Option(
            help="One lab's integration.safetensors, of a run that integrated labs: the file is "
            "of that lab. Without it the file is of a new lab."
        ),
    ] = None,
    batch_key: Annotated[
        str,
        typer.Option(help="Column of obs with batches, for --integration of a lab that had some."),
    ] = "",
    allow_low_coverage: Annotated[
        bool, typer.Option(help="Embed even if the file has under 20 % of the model's genes.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw the cells here, on the run's map (.png, .svg, .pdf)."),
    ] = None,
    colour: Annotated[
        list[str] | None, typer.Option(help="Columns of obs to colour the map by.")
    ] = None,
    force: Force = False,
) -> None:
    """Embed a file with a trained encoder and cluster it. Nothing leaves this machine.

    The copy has obsm["X_fedsc"], obsm["X_fedsc_umap"], obs["fedsc_cluster"], uns["fedsc"] and, if
    some lab of the run was annotated, obs["fedsc_type"]. Clusters, types and map are those of the
    run, as in every lab's copy. With --resolution, the clusters are Leiden's on the embedding, and
    there are no types and no map. The cell types in the file are not used.

    It says how many of the model's genes the file has, warns below 80 % and refuses below 20 %. An
    .h5ad that is larger than memory is read a block of cells at a time (X as CSR).

    **Examples**

    `fedsc embed new.h5ad --model runs/my-run --output new-embedded.h5ad`

    `fedsc embed new.h5ad --model runs/my-run -o out.h5ad --plot map.png --colour cell_type`
    """
    import numpy as np

    from fedsc.data.additions import additions_of
    from fedsc.data.annotated import Origin, write_annotated
    from fedsc.data.expression import Expression
    from fedsc.data.reading.read import read_or_open
    from fedsc.placement import place

    console = Console(stderr=True)
    if output.exists() and file.exists() and output.samefile(file):
        raise DataError(f"{output} is the input file; name another output")
    check_output(output, ".h5ad", force=force)
    if plot is not None:
        check_plot(plot, force=force)
    how = ReadAs(layer, "", symbols, make_unique, fold_case)
    origin = Origin(file, how=how)
    cells = read_or_open(file, how)
    if colour and not isinstance(cells, Expression):
        raise DataError(f"--colour: {file} does not fit in memory, so only clusters can be shown")
    obs = cells.obs if isinstance(cells, Expression) else {}
    missing = [name for name in colour or [] if name not in obs]
    if missing:
        known = ", ".join(obs) or "none"
        raise DataError(f"obs has no column '{missing[0]}' to colour by; it has: {known}")
    placed = place(
        model,
        cells,
        resolution=resolution,
        seed=seed,
        how=origin.how_of_copy,
        private=private,
        integration=integration,
        batch_key=batch_key,
        allow_low_coverage=allow_low_coverage,
    )
    found = placed.annotation
    write_annotated(origin, output, cells, additions_of(found))
    for sentence in (*placed.said, *(f"warning: {warning}" for warning in placed.warnings)):
        console.print(sentence, highlight=False, soft_wrap=True)
    if not isinstance(cells, Expression):
        console.print("larger than memory: read a block of cells at a time", highlight=False)
    console.print(
        f"{len(found.embedding)} cells in {len(np.unique(found.clusters))} clusters "
        f"({found.about['clusters']}): {output}",
        highlight=False,
        soft_wrap=True,
    )
    if plot is not None:
        from fedsc.data.additions import cluster_column, type_column
        from fedsc.plots.maps import embedding_map, tsne
        from fedsc.plots.style import save

        groups = {name: obs[name] for name in colour or []}
        groups["fedsc_cluster"] = cluster_column(found.clusters, found.k)
        if len(found.types):
            groups["fedsc_type"] = type_column(found.types, found.clusters)
        places = tsne(found.embedding, seed) if found.places is None else found.places
        save(embedding_map(places, groups), plot)
        console.print(f"map: {plot}", highlight=False)
